package authority

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
)

const (
	// retryShare of the life is how long a failed renewal waits: ten tries fit into the second half.
	retryShare = 20
	// retryFloor keeps the shortest test lives from spinning.
	retryFloor = 50 * time.Millisecond
)

// Errors of an identity source.
var (
	ErrSourceClosed = errors.New("identity source is closed")
	ErrSVIDExpired  = errors.New("own SVID has expired")
)

// source holds the current SVID of one workload or in-process service and renews it at half its life. It implements
// identity.Source. Unlike go-spiffe's source it never serves an expired SVID.
type source struct {
	ca      *ca
	now     func() time.Time
	changed broadcast       // of SVID or roots
	roots   <-chan struct{} // closed at the next change of the roots; only rotate looks at it
	cancel  context.CancelFunc
	done    chan struct{}

	mu     sync.Mutex
	svid   *x509svid.SVID
	closed bool
}

type issueFunc func(context.Context) (*x509svid.SVID, error)

// newSource issues the first SVID before it returns. ctx bounds that issue only; Close ends the source.
func newSource(ctx context.Context, c *ca, issue issueFunc, now func() time.Time, log *slog.Logger) (*source, error) {
	roots := c.changed.wait()
	svid, err := issue(ctx)
	if err != nil {
		return nil, err
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &source{ca: c, now: now, cancel: cancel, done: make(chan struct{}), svid: svid, roots: roots}
	go s.rotate(run, issue, log)
	return s, nil
}

func (s *source) rotate(ctx context.Context, issue issueFunc, log *slog.Logger) {
	defer close(s.done)
	life := s.svid.Certificates[0].NotAfter.Sub(s.now())
	wait := halfLife(life)
	for {
		if !s.sleep(ctx, wait) {
			return
		}
		svid, err := issue(ctx)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.ErrorContext(ctx, "renewing SVID", slog.String("spiffe_id", s.svid.ID.String()), slog.Any("error", err))
			wait = max(life/retryShare, retryFloor)
			continue
		}
		life = svid.Certificates[0].NotAfter.Sub(s.now())
		wait = halfLife(life)
		s.mu.Lock()
		s.svid = svid
		s.mu.Unlock()
		s.changed.fire()
	}
}

// sleep passes changes of the roots on until the time is over, and reports whether it is.
func (s *source) sleep(ctx context.Context, wait time.Duration) bool {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			return true
		case <-s.roots:
			s.roots = s.ca.changed.wait() // before the change is passed on, so that the next one is not missed
			s.changed.fire()
		}
	}
}

// halfLife is half of life with 10 % of jitter either way, so that workloads started together do not renew together.
func halfLife(life time.Duration) time.Duration {
	var raw [8]byte
	if _, err := rand.Read(raw[:]); err != nil {
		return life / 2
	}
	share := binary.BigEndian.Uint64(raw[:]) % 201 // 0 to 200 thousandths around 90 %
	return life / 2 * time.Duration(900+share) / 1000
}

// GetX509SVID returns the current SVID. Errors are ErrSourceClosed and ErrSVIDExpired.
func (s *source) GetX509SVID() (*x509svid.SVID, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.closed:
		return nil, ErrSourceClosed
	case !s.now().Before(s.svid.Certificates[0].NotAfter):
		return nil, ErrSVIDExpired
	}
	return s.svid, nil
}

// GetX509BundleForTrustDomain returns the roots of the own trust domain; no other is known.
func (s *source) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	if td != s.ca.td {
		return nil, fmt.Errorf("no bundle for trust domain %q", td.Name())
	}
	return s.ca.bundle(), nil
}

// Updated returns a channel that is closed at the next rotation, of the SVID or of the roots.
func (s *source) Updated() <-chan struct{} { return s.changed.wait() }

// Close ends rotation and drops the key. It may be called more than once.
func (s *source) Close() error {
	s.cancel()
	<-s.done
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.svid = nil
	return nil
}
