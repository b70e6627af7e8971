package authority

import (
	"context"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// rootNextFile holds the root that takes over while a rotation is under way.
const rootNextFile = "root-next.pem"

// ErrRotating is returned while the rotation before is under way.
var ErrRotating = errors.New("a rotation is under way")

// root is a root certificate and its key.
type root struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// RotateRoot makes a new root and publishes it beside the one in force. After half the life of an SVID, when every workload has it, it
// signs; after another whole life, when everything that the old root signed has ended, the old one leaves the bundle and its key
// the disk. Nothing fails meanwhile. A restart goes on with it. Errors wrap ErrRotating, ErrInvalid where another issuer makes the
// SVIDs, ErrAudit, or are those of the files.
func (a *Authority) RotateRoot(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return err
	}
	if a.cfg.Issuer != nil {
		return fmt.Errorf("%w: the roots are another issuer's", ErrInvalid)
	}
	if len(a.ca.certificates()) > 1 {
		return fmt.Errorf("%w: of the root", ErrRotating)
	}
	path := filepath.Join(a.cfg.Dir, rootNextFile)
	raw, err := newRoot(path, a.td, a.cfg.Now())
	if err != nil {
		return err
	}
	next, err := parseRootFile(raw, a.ca)
	if err != nil {
		return err
	}
	takeover := a.cfg.Now().Add(a.cfg.SVIDLifetime / 2)
	err = a.trail.allow(ctx, &v1.AuditEvent{
		Kind:   v1.EventKind_EVENT_KIND_REGISTRY_CHANGED,
		Detail: clip("a new root certificate is published: " + next.id() + " signs from " + takeover.UTC().Format(time.RFC3339) + " on"),
	})
	if err != nil {
		return errors.Join(err, os.Remove(path))
	}
	if _, err := a.store.keySince(next.id(), takeover); err != nil {
		return err
	}
	a.ca.succeed(next, takeover)
	return nil
}

// resumeRoot goes on with a rotation that an earlier process began. A root that was made and never announced is removed.
func (a *Authority) resumeRoot() error {
	path := filepath.Join(a.cfg.Dir, rootNextFile)
	raw, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	next, err := parseRootFile(raw, a.ca)
	if err != nil {
		return err
	}
	takeover, known, err := a.store.keyTime(next.id())
	if err != nil {
		return err
	}
	if !known {
		return os.Remove(path)
	}
	a.ca.succeed(next, time.UnixMilli(takeover))
	return nil
}

func parseRootFile(raw []byte, c *ca) (root, error) {
	cert, key, err := parseRoot(raw, c.td)
	if err != nil {
		return root{}, fmt.Errorf("%w: %s: %w", ErrKeyFile, rootNextFile, err)
	}
	return root{cert, key}, nil
}

// id names a root in the store and in the log.
func (r root) id() string {
	sum := sha256.Sum256(r.cert.Raw)
	return "root-" + hex.EncodeToString(sum[:16])
}

// succeed publishes the root that takes over.
func (c *ca) succeed(next root, takeover time.Time) {
	c.mu.Lock()
	c.next, c.takeover = &next, takeover
	c.mu.Unlock()
	c.changed.fire()
}

// signer is the root that signs now.
func (c *ca) signer() root {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	if c.next != nil && !c.now().Before(c.takeover) {
		return *c.next
	}
	return c.current
}

// certificates are the roots that verify now, the newest last.
func (c *ca) certificates() []*x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settle()
	list := []*x509.Certificate{c.current.cert}
	if c.next != nil {
		list = append(list, c.next.cert)
	}
	return list
}

// der is how the Workload API sends a bundle: the certificates one after the other.
func (c *ca) der() []byte {
	var out []byte
	for _, cert := range c.certificates() {
		out = append(out, cert.Raw...)
	}
	return out
}

// settle ends a rotation when everything that the old root signed has ended. While the files cannot be changed both roots stand, and
// it is tried again. The caller holds mu.
func (c *ca) settle() {
	if c.next == nil || c.now().Before(c.takeover.Add(c.life)) {
		return
	}
	err := os.Rename(filepath.Join(c.dir, rootNextFile), filepath.Join(c.dir, rootFile))
	if err != nil || syncDir(c.dir) != nil {
		return
	}
	c.current, c.next = *c.next, nil
	c.changed.fire()
}
