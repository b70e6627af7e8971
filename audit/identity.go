package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"
)

const (
	lockName   = "LOCK"
	keyName    = "log.key"
	infoName   = "log.json"
	closedName = "closed"
	pemType    = "PRIVATE KEY"
)

// logInfo is log.json.
type logInfo struct {
	LogID     string    `json:"log_id"`
	Origin    string    `json:"origin"`
	PublicKey []byte    `json:"public_key"`
	Created   time.Time `json:"created"`
}

// logIdentity is what names a log: an origin and a key.
type logIdentity struct {
	origin string
	logID  [16]byte
	keyID  [16]byte
	public ed25519.PublicKey
}

func newIdentity(origin string, pub ed25519.PublicKey) logIdentity {
	h := sha256.New()
	h.Write([]byte(origin))
	h.Write([]byte{0})
	h.Write(pub)
	key := sha256.Sum256(pub)
	return logIdentity{origin: origin, logID: [16]byte(h.Sum(nil)), keyID: [16]byte(key[:]), public: pub}
}

// readInfo returns the identity that log.json states. Its log id must follow from its origin and key.
func readInfo(fsys fileSystem) (logIdentity, error) {
	b, err := readSmall(fsys, infoName)
	if errors.Is(err, fs.ErrNotExist) {
		return logIdentity{}, ErrNoLog
	}
	if err != nil {
		return logIdentity{}, fmt.Errorf("reading %s: %w", infoName, err)
	}
	var info logInfo
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&info); err != nil {
		return logIdentity{}, fmt.Errorf("%w: %s does not parse: %w", ErrTampered, infoName, err)
	}
	if len(info.PublicKey) != ed25519.PublicKeySize || !validOrigin(info.Origin) {
		return logIdentity{}, fmt.Errorf("%w: %s has no valid key and origin", ErrTampered, infoName)
	}
	id := newIdentity(info.Origin, info.PublicKey)
	if hex.EncodeToString(id.logID[:]) != info.LogID {
		return logIdentity{}, fmt.Errorf("%w: the log id in %s does not follow from its origin and key", ErrTampered, infoName)
	}
	return id, nil
}

func writeInfo(fsys fileSystem, id logIdentity, now time.Time) error {
	b, err := json.MarshalIndent(logInfo{
		LogID: hex.EncodeToString(id.logID[:]), Origin: id.origin, PublicKey: id.public, Created: now.UTC(),
	}, "", "  ")
	if err != nil {
		return err
	}
	return writeDurable(fsys, infoName, append(b, '\n'))
}

// loadKey returns the key of the log, or creates it when create is set.
func loadKey(fsys fileSystem, create bool) (ed25519.PrivateKey, error) {
	b, err := readSmall(fsys, keyName)
	if errors.Is(err, fs.ErrNotExist) && create {
		return createKey(fsys)
	}
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", keyName, err)
	}
	mode, err := fsys.Mode(keyName)
	if err != nil {
		return nil, err
	}
	if mode.Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%s has mode %04o, want 0600", keyName, mode.Perm())
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != pemType {
		return nil, fmt.Errorf("%s holds no private key", keyName)
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing %s: %w", keyName, err)
	}
	key, ok := parsed.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s is not an Ed25519 key", keyName)
	}
	return key, nil
}

func createKey(fsys fileSystem) (ed25519.PrivateKey, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	if err := writeDurable(fsys, keyName, pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der})); err != nil {
		return nil, fmt.Errorf("writing %s: %w", keyName, err)
	}
	return key, nil
}

// loadIdentity returns the identity of the log in fsys for origin. fresh says that log.json does not exist yet, so the log may be
// created; it is written last.
func loadIdentity(fsys fileSystem, origin string) (id logIdentity, fresh bool, err error) {
	stored, err := readInfo(fsys)
	fresh = errors.Is(err, ErrNoLog)
	if err != nil && !fresh {
		return id, false, err
	}
	key, err := loadKey(fsys, fresh)
	if err != nil {
		return id, false, err
	}
	pub, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return id, false, errors.New("log key has no Ed25519 public key")
	}
	id = newIdentity(origin, pub)
	if !fresh && subtle.ConstantTimeCompare(stored.logID[:], id.logID[:]) != 1 {
		return id, false, fmt.Errorf("%w: %s names %q", ErrForeign, infoName, stored.origin)
	}
	return id, fresh, nil
}

// closing is the note of a clean Close: what the log held then. It is advisory but for one rule: a log that is shorter was cut.
type closing struct {
	BootID string `json:"boot_id"`
	Size   uint64 `json:"size"`
	Chain  string `json:"chain"`
}

func (l *Log) writeClosing(size uint64, chain [32]byte) error {
	b, err := json.Marshal(closing{
		BootID: hex.EncodeToString(l.bootID[:]), Size: size, Chain: hex.EncodeToString(chain[:]),
	})
	if err != nil {
		return err
	}
	return writeDurable(l.fsys, closedName, append(b, '\n'))
}

// checkClosing says whether the log was closed cleanly at exactly size and chain.
func checkClosing(fsys fileSystem, size uint64, chain [32]byte) (clean bool, err error) {
	b, err := readSmall(fsys, closedName)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("reading %s: %w", closedName, err)
	}
	var c closing
	if json.Unmarshal(b, &c) != nil {
		return false, nil
	}
	if c.Size > size {
		return false, fmt.Errorf("%w: it was closed with %d records and has %d now", ErrTampered, c.Size, size)
	}
	if c.Size == size && c.Chain != hex.EncodeToString(chain[:]) {
		return false, fmt.Errorf("%w: it was closed with another chain hash at %d records", ErrTampered, size)
	}
	return c.Size == size, nil
}
