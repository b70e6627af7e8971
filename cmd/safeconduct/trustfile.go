package main

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/internal/plane"
)

const (
	// trustName is the signed trust bundle in force, as agents get it: it lets other processes of the operator see the capability
	// table, which the operator socket does not list.
	trustName = "trust-bundle.pb"
	maxTrust  = 8 << 20
	// trustWait bounds how long a command waits for up to publish a change that it just made, trustPoll how often it looks.
	trustWait = 5 * time.Second
	trustPoll = 10 * time.Millisecond
)

func writeTrust(dir string, d *v1.Dsse) error {
	raw, err := proto.Marshal(d)
	if err != nil {
		return fmt.Errorf("encoding trust bundle: %w", err)
	}
	return replaceFile(filepath.Join(dir, trustName), raw)
}

// followTrust publishes every trust bundle until ctx ends.
func followTrust(ctx context.Context, dir string, p *plane.Plane, log *slog.Logger) {
	for {
		changed := p.Authority.BundleChanged()
		if err := writeTrust(dir, p.Authority.Bundle()); err != nil {
			log.ErrorContext(ctx, "trust bundle not published", slog.String("error", err.Error()))
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// trustView is a trust bundle with its table.
type trustView struct {
	*v1.TrustBundle
	table *v1.CapabilityTable
}

// readTrust reads and checks the published trust bundle. Its keys come with it: the check shows damage, not forgery by the user
// whose folder this is.
func readTrust(dir string) (trustView, error) {
	path := filepath.Join(dir, trustName)
	raw, err := readBounded(path, maxTrust)
	if errors.Is(err, fs.ErrNotExist) {
		return trustView{}, fmt.Errorf("%w: %s", errNotUp, dir)
	}
	if err != nil {
		return trustView{}, err
	}
	v, err := parseTrust(raw)
	if err != nil {
		return trustView{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	return v, nil
}

// parseTrust decodes a trust bundle and checks its signatures with the keys in it.
func parseTrust(raw []byte) (trustView, error) {
	var d v1.Dsse
	if err := proto.Unmarshal(raw, &d); err != nil {
		return trustView{}, err
	}
	v := trustView{TrustBundle: &v1.TrustBundle{}, table: &v1.CapabilityTable{}}
	if err := proto.Unmarshal(d.GetPayload(), v.TrustBundle); err != nil {
		return trustView{}, err
	}
	if _, err := delegation.OpenDsse(&d, delegation.TypeBundle, v.key(v1.KeyUse_KEY_USE_FEED)); err != nil {
		return trustView{}, err
	}
	if v.GetTable() == nil {
		return v, nil
	}
	payload, err := delegation.OpenDsse(v.GetTable(), delegation.TypeTable, v.key(v1.KeyUse_KEY_USE_POLICY))
	if err != nil {
		return trustView{}, err
	}
	if err := proto.Unmarshal(payload, v.table); err != nil {
		return trustView{}, err
	}
	return v, nil
}

func (v trustView) key(use v1.KeyUse) func(string) (ed25519.PublicKey, bool) {
	return func(id string) (ed25519.PublicKey, bool) {
		for _, k := range v.GetKeys() {
			if k.GetKeyId() != id || k.GetUse() != use {
				continue
			}
			if pub, err := x509.ParsePKIXPublicKey(k.GetSpki()); err == nil {
				ed, ok := pub.(ed25519.PublicKey)
				return ed, ok
			}
		}
		return nil, false
	}
}

// trust returns the trust bundle in force, which up publishes a moment after each change.
func (s *session) trust(ctx context.Context) (trustView, error) {
	st, err := s.Status(ctx)
	if err != nil {
		return trustView{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, trustWait)
	defer cancel()
	tick := time.NewTicker(trustPoll)
	defer tick.Stop()
	for {
		v, err := readTrust(s.dir)
		if err != nil || v.GetSerial() >= st.GetBundleSerial() {
			return v, err
		}
		select {
		case <-ctx.Done():
			return v, fmt.Errorf("%s stays behind: it has serial %d, the authority %d; see the log of safeconduct up", trustName, v.GetSerial(), st.GetBundleSerial())
		case <-tick.C:
		}
	}
}
