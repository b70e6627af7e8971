package bolt

import "github.com/safeconduct/safeconduct/identity"

// OpenWithID opens a file in which tenants are kept under ids of the test's choice.
func OpenWithID(path string, id func(identity.Tenant) [16]byte) (*Driver, error) {
	return open(path, Options{}, id)
}
