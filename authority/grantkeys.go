package authority

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// grantNextFile holds the grant key that takes over while a rotation is under way.
	grantNextFile = "grant-next.key"
	// withdrawnKey before a key's id is what the registry file knows a withdrawn key by.
	withdrawnKey = "withdrawn-"
	// grantKeyLead is how long a new grant key is published before it signs: longer than any verifier is out of touch and accepted.
	grantKeyLead = time.Hour
	// grantKeyRest is how long a replaced key still verifies: as long as the last grant that it signed.
	grantKeyRest = delegation.MaxGrantLife + delegation.Skew
)

// grantKeys is who signs grants, and who signed those that still live. It is immutable.
type grantKeys struct {
	current    grantKey
	next       *grantKey
	generation uint64
}

type grantKey struct {
	signingKey
	since int64 // published as its beginning, milliseconds
}

// signs is when a key that takes over begins to sign: a little after what is published, for verifiers whose clock is behind.
func (k *grantKey) signs() int64 { return k.since + delegation.Skew.Milliseconds() }

// retires is when the key before it stops to verify.
func (k *grantKey) retires() int64 { return k.signs() + grantKeyRest.Milliseconds() }

// signer is the key that signs at a time in milliseconds.
func (g *grantKeys) signer(at int64) signingKey {
	if g.next != nil && at >= g.next.signs() {
		return g.next.signingKey
	}
	return g.current.signingKey
}

// published is what verifiers are told.
func (g *grantKeys) published() []*v1.PublicKey {
	current := &v1.PublicKey{KeyId: g.current.id, Use: v1.KeyUse_KEY_USE_GRANT, Spki: g.current.spki, NotBeforeMs: g.current.since}
	if g.next == nil {
		return []*v1.PublicKey{current}
	}
	current.NotAfterMs = g.next.retires()
	return []*v1.PublicKey{
		current, {KeyId: g.next.id, Use: v1.KeyUse_KEY_USE_GRANT, Spki: g.next.spki, NotBeforeMs: g.next.since},
	}
}

// find returns the key that verifies at a time in milliseconds.
func (g *grantKeys) find(id string, at int64) (ed25519.PublicKey, bool) {
	switch {
	case id == g.current.id:
		return g.current.public, at >= g.current.since && (g.next == nil || at < g.next.retires())
	case g.next != nil && id == g.next.id:
		return g.next.public, at >= g.next.since
	}
	return nil, false
}

// RotateGrantKey makes a new key for grants and publishes it an hour before it signs. The old one still verifies for as long as the last
// grant lives that it signed, and leaves the disk then. A restart goes on with it. Errors wrap ErrRotating, ErrAudit, or are those of
// the files.
func (a *Authority) RotateGrantKey(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return err
	}
	if err := a.settleGrantKeys(); err != nil {
		return err
	}
	keys := a.grants.Load()
	if keys.next != nil {
		return fmt.Errorf("%w: of the grant key", ErrRotating)
	}
	path := filepath.Join(a.cfg.Dir, grantNextFile)
	key, err := loadSigningKey(a.cfg.Dir, grantNextFile)
	if err != nil {
		return err
	}
	signs := a.cfg.Now().Add(grantKeyLead)
	if err := a.recordKey(ctx, "grant key "+key.id+" is published and signs from "+signs.UTC().Format(time.RFC3339)+" on"); err != nil {
		return errors.Join(err, os.Remove(path))
	}
	since, err := a.store.keySince(key.id, signs.Add(-delegation.Skew))
	if err != nil {
		return err
	}
	a.grants.Store(&grantKeys{current: keys.current, next: &grantKey{key, since}, generation: keys.generation + 1})
	return a.republish()
}

// WithdrawGrantKey replaces a grant key that somebody else may have: the old one verifies nothing from now on, so every grant dies at
// once, here and wherever the new trust bundle arrives, and people authorise again. A rotation that is under way ends with it. Errors
// wrap ErrAudit or are those of the files.
func (a *Authority) WithdrawGrantKey(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.open(); err != nil {
		return err
	}
	keys := a.grants.Load()
	if err := a.recordKey(ctx, "grant key "+keys.current.id+" is withdrawn; every grant ends"); err != nil {
		return err
	}
	ids := []string{keys.current.id}
	if keys.next != nil {
		ids = append(ids, keys.next.id)
	}
	for _, id := range ids { // first, so that a process that ends on the way does not start with one of them again
		if _, err := a.store.keySince(withdrawnKey+id, a.cfg.Now()); err != nil {
			return err
		}
	}
	if err := a.replaceGrantKey(); err != nil {
		return err
	}
	key, err := loadSigningKey(a.cfg.Dir, grantFile)
	if err != nil {
		return err
	}
	since, err := a.store.keySince(key.id, a.cfg.Now().Add(-delegation.Skew))
	if err != nil {
		return err
	}
	a.grants.Store(&grantKeys{current: grantKey{key, since}, generation: keys.generation + 1})
	return a.republish()
}

// replaceGrantKey makes a new key in the place of the one in force, and ends a rotation.
func (a *Authority) replaceGrantKey() error {
	if err := os.Remove(filepath.Join(a.cfg.Dir, grantNextFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("withdrawing the grant key: %w", err)
	}
	_, err := newSigningKey(filepath.Join(a.cfg.Dir, grantFile))
	return err
}

// loadGrantKey loads the key in force. One that was withdrawn is replaced: the process that withdrew it ended on the way, or
// its file was put back.
func (a *Authority) loadGrantKey() (signingKey, error) {
	key, err := loadSigningKey(a.cfg.Dir, grantFile)
	if err != nil {
		return key, err
	}
	_, withdrawn, err := a.store.keyTime(withdrawnKey + key.id)
	if err != nil || !withdrawn {
		return key, err
	}
	if err := a.replaceGrantKey(); err != nil {
		return key, err
	}
	return loadSigningKey(a.cfg.Dir, grantFile)
}

func (a *Authority) recordKey(ctx context.Context, detail string) error {
	return a.trail.allow(ctx, &v1.AuditEvent{Kind: v1.EventKind_EVENT_KIND_REGISTRY_CHANGED, Detail: clip(detail)})
}

// republish signs the trust bundle anew. The caller holds mu.
func (a *Authority) republish() error {
	snapshot, table := a.snapshot.Load(), a.table.Load()
	trust, err := a.sealTrust(a.trust.Load().serial+1, snapshot, table)
	if err != nil {
		return err
	}
	if err := a.store.setBundleSerial(trust.serial); err != nil {
		return err
	}
	a.publish(snapshot, table, trust)
	return nil
}

// openGrantKeys loads the key in force and the one that takes over. One that was made and never announced is removed.
func (a *Authority) openGrantKeys() error {
	key, err := a.loadGrantKey()
	if err != nil {
		return err
	}
	since, err := a.store.keySince(key.id, a.cfg.Now())
	if err != nil {
		return err
	}
	keys := &grantKeys{current: grantKey{key, since}, generation: 1}
	a.grants.Store(keys)
	path := filepath.Join(a.cfg.Dir, grantNextFile)
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	next, err := loadSigningKey(a.cfg.Dir, grantNextFile)
	if err != nil {
		return err
	}
	since, known, err := a.store.keyTime(next.id)
	if err != nil {
		return err
	}
	_, withdrawn, err := a.store.keyTime(withdrawnKey + next.id)
	if err != nil {
		return err
	}
	if !known || withdrawn {
		return os.Remove(path)
	}
	a.grants.Store(&grantKeys{current: keys.current, next: &grantKey{next, since}, generation: keys.generation})
	return a.settleGrantKeys()
}

// settleGrantKeys ends a rotation when everything that the old key signed has ended. The caller holds mu, or nobody else is there yet.
func (a *Authority) settleGrantKeys() error {
	keys := a.grants.Load()
	if keys.next == nil || a.cfg.Now().UnixMilli() < keys.next.retires() {
		return nil
	}
	if err := os.Rename(filepath.Join(a.cfg.Dir, grantNextFile), filepath.Join(a.cfg.Dir, grantFile)); err != nil {
		return fmt.Errorf("ending the rotation of the grant key: %w", err)
	}
	if err := syncDir(a.cfg.Dir); err != nil {
		return err
	}
	a.grants.Store(&grantKeys{current: *keys.next, generation: keys.generation + 1})
	return nil
}

// grantSigner is the key that signs now.
func (a *Authority) grantSigner() ed25519.PrivateKey {
	return a.grants.Load().signer(a.cfg.Now().UnixMilli()).private
}
