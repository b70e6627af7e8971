// Package honest uses Permits as handlers do; it compiles.
package honest

import (
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/policy"
)

// Use reads a Permit that somebody minted.
func Use(p policy.Permit, d policy.Decision, a interceptors.Admitted) bool {
	return !p.IsZero() && d.Allowed() && a.Valid() && policy.Permit{}.IsZero()
}
