// Package forge tries to make a Permit, a Decision and an Admitted by itself. No line marked "refused" may compile.
package forge

import (
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/policy"
)

func permit(p policy.Permit, d policy.Decision, in *interceptors.Interaction) {
	_ = policy.Permit{f: nil}                // refused
	_ = policy.Permit{nil}                   // refused
	p.f = nil                                // refused
	_ = p.f                                  // refused
	_ = policy.Permit(struct{ f *int }{nil}) // refused
	var f policy.facts                       // refused
	_ = f
	d.allowed = true                   // refused
	_ = policy.Decision{allowed: true} // refused
	_ = interceptors.Admitted{in: in}  // refused
	_ = interceptors.Admitted{in}      // refused
	_ = policy.Table{}.rows            // refused
}
