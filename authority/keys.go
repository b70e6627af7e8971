package authority

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/safeconduct/safeconduct/delegation"
)

// Names of the key files. These four keys are the only private keys that are ever written; each file has mode 0600.
const (
	rootFile   = "root.pem"
	grantFile  = "grant.key"
	policyFile = "policy.key"
	feedFile   = "feed.key"
)

// maxKeyFile bounds what is read from a key file: a P-256 key and its certificate take about 1 KiB.
const maxKeyFile = 16 << 10

// ErrKeyFile is returned when a key file is readable by others, damaged, or not a regular file.
var ErrKeyFile = errors.New("key file refused")

// signingKey is one Ed25519 key of the authority and the id under which it is published.
type signingKey struct {
	private ed25519.PrivateKey
	public  ed25519.PublicKey
	id      string
	spki    []byte
}

// loadSigningKey reads the key in dir/name and makes it when it is absent.
func loadSigningKey(dir, name string) (signingKey, error) {
	path := filepath.Join(dir, name)
	raw, err := readSecret(path)
	if errors.Is(err, fs.ErrNotExist) {
		raw, err = newSigningKey(path)
	}
	if err != nil {
		return signingKey{}, err
	}
	key, rest, err := parseKey(raw)
	if err != nil || len(rest) > 0 {
		return signingKey{}, fmt.Errorf("%w: %s: not one private key", ErrKeyFile, path)
	}
	private, ok := key.(ed25519.PrivateKey)
	if !ok {
		return signingKey{}, fmt.Errorf("%w: %s: not an Ed25519 key", ErrKeyFile, path)
	}
	public, ok := private.Public().(ed25519.PublicKey)
	if !ok {
		return signingKey{}, fmt.Errorf("%w: %s: no public half", ErrKeyFile, path)
	}
	id, err := delegation.KeyID(public)
	if err != nil {
		return signingKey{}, fmt.Errorf("%s: %w", path, err)
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return signingKey{}, fmt.Errorf("%s: %w", path, err)
	}
	return signingKey{private: private, public: public, id: id, spki: spki}, nil
}

func newSigningKey(path string) ([]byte, error) {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	raw, err := encodeKey(key)
	if err != nil {
		return nil, fmt.Errorf("making %s: %w", path, err)
	}
	return raw, writeSecret(path, raw)
}

func newECKey() (*ecdsa.PrivateKey, error) {
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func encodeKey(key crypto.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// parseKey returns the private key that raw starts with and what follows it.
func parseKey(raw []byte) (crypto.PrivateKey, []byte, error) {
	block, rest := pem.Decode(raw)
	if block == nil || block.Type != "PRIVATE KEY" {
		return nil, nil, errors.New("no private key")
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parsing key: %w", err)
	}
	return key, rest, nil
}

// readSecret reads a file that only its owner may read.
func readSecret(path string) ([]byte, error) {
	// Lstat first: a link could point at a file whose mode says nothing about this one.
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrKeyFile, path)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("%w: %s has mode %#o, want 0600", ErrKeyFile, path, info.Mode().Perm())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	raw, err := io.ReadAll(io.LimitReader(f, maxKeyFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading key: %w", err)
	}
	if len(raw) > maxKeyFile {
		return nil, fmt.Errorf("%w: %s is over %d bytes", ErrKeyFile, path, maxKeyFile)
	}
	return raw, nil
}

// writeSecret makes path durable with mode 0600 in one step, so that a crash leaves either no key or the whole key.
func writeSecret(path string, raw []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".key-*") // mode 0600 from the start
	if err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	tmp := f.Name()
	defer os.Remove(tmp) //nolint:errcheck // gone after the rename
	_, err = f.Write(raw)
	if err == nil {
		err = f.Sync()
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing key: %w", err)
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing %s: %w", dir, err)
	}
	return nil
}
