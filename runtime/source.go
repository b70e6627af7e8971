package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/x509bundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/safeconduct/safeconduct/identity"
)

// WorkloadAPI returns a Source on the SPIFFE Workload API at addr, a stock SPIRE agent's or the embedded one's. It waits for the
// first SVID until ctx ends. want picks one of several SVIDs; empty takes the first. A source serves no expired SVID, and never
// one of another identity than its first.
func WorkloadAPI(ctx context.Context, addr, want string) (identity.Source, error) {
	var own spiffeid.ID // go-spiffe calls the picker from one goroutine at a time, the first time before NewX509Source returns
	if want != "" {
		id, err := identity.ParseAgent(want)
		if err != nil {
			return nil, fmt.Errorf("workload API: %w", err)
		}
		own = id.ID()
	}
	pick := func(svids []*x509svid.SVID) *x509svid.SVID {
		if own.IsZero() {
			own = svids[0].ID
		}
		for _, s := range svids {
			if s.ID == own {
				return s
			}
		}
		return svids[0] // GetX509SVID refuses it
	}
	opts := []workloadapi.X509SourceOption{
		workloadapi.WithClientOptions(workloadapi.WithAddr(addr)), workloadapi.WithDefaultX509SVIDPicker(pick),
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	src, err := workloadapi.NewX509Source(ctx, opts...)
	if err != nil {
		return nil, fmt.Errorf("workload API at %s: no identity issued within %v; is this process registered? %w", addr, startTimeout, err)
	}
	svid, err := src.GetX509SVID()
	if err != nil || want != "" && svid.ID.String() != want {
		_ = src.Close()
		return nil, fmt.Errorf("workload API at %s: issued %v, want %s: %w", addr, svid, want, identity.ErrNotAnIdentity)
	}
	w := &workloadSource{X509Source: src, own: svid.ID, next: make(chan struct{}), done: make(chan struct{})}
	w.wg.Add(1)
	go w.fanOut()
	return w, nil
}

// workloadSource fans go-spiffe's one update channel out to many.
type workloadSource struct {
	*workloadapi.X509Source
	own  spiffeid.ID // for the life of the source: another entry that matches later does not change who this process is
	mu   sync.Mutex
	next chan struct{}
	done chan struct{}
	once sync.Once
	wg   sync.WaitGroup
}

func (w *workloadSource) fanOut() {
	defer w.wg.Done()
	for {
		select {
		case <-w.done:
			return
		case <-w.X509Source.Updated():
			w.mu.Lock()
			close(w.next)
			w.next = make(chan struct{})
			w.mu.Unlock()
		}
	}
}

// Updated implements identity.Source.
func (w *workloadSource) Updated() <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.next
}

// GetX509SVID implements x509svid.Source. go-spiffe serves an expired SVID when its endpoint is down; this does not.
func (w *workloadSource) GetX509SVID() (*x509svid.SVID, error) {
	svid, err := w.X509Source.GetX509SVID()
	if err != nil {
		return nil, err
	}
	if svid.ID != w.own {
		return nil, fmt.Errorf("own identity %s is issued no longer, only %s", w.own, svid.ID)
	}
	if end := svid.Certificates[0].NotAfter; !time.Now().Before(end) {
		return nil, fmt.Errorf("own SVID expired at %s and no new one was issued", end.Format(time.RFC3339))
	}
	return svid, nil
}

// GetX509BundleForTrustDomain implements x509bundle.Source.
func (w *workloadSource) GetX509BundleForTrustDomain(td spiffeid.TrustDomain) (*x509bundle.Bundle, error) {
	return w.X509Source.GetX509BundleForTrustDomain(td)
}

// Close implements identity.Source.
func (w *workloadSource) Close() error {
	var err error
	w.once.Do(func() {
		close(w.done)
		w.wg.Wait()
		err = w.X509Source.Close()
	})
	return err
}
