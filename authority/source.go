package authority

import (
	"context"
	"errors"

	"github.com/spiffe/go-spiffe/v2/svid/x509svid"

	"github.com/safeconduct/safeconduct/identity"
)

// serviceSource is a source that tells the authority when it is closed.
type serviceSource struct {
	*source
	owner *Authority
}

// Close ends the source. It may be called more than once.
func (s *serviceSource) Close() error {
	s.owner.sourcesMu.Lock()
	delete(s.owner.sources, s)
	s.owner.sourcesMu.Unlock()
	return s.source.Close()
}

// Source returns an identity for a service or agent that runs in this process, renewed until it or the authority is closed. Only
// code that holds the Authority can call it, so the caller is trusted as far as the authority itself. ErrUnknownAgent is
// returned for an id that is not registered and active.
func (a *Authority) Source(id identity.AgentID) (identity.Source, error) {
	issue := func(context.Context) (*x509svid.SVID, error) {
		if err := a.active(id); err != nil {
			return nil, err
		}
		return a.ca.issue(id)
	}
	s, err := newSource(context.Background(), a.ca, issue, a.cfg.Now, a.cfg.Logger)
	if err != nil {
		return nil, err
	}
	out := &serviceSource{source: s, owner: a}
	a.sourcesMu.Lock()
	defer a.sourcesMu.Unlock()
	if a.sources == nil {
		return nil, errors.Join(ErrClosed, s.Close())
	}
	a.sources[out] = struct{}{}
	return out, nil
}
