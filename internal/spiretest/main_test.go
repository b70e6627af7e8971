package spiretest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// roles are the agent programs: this binary under another name.
var roles = map[string]func(context.Context, *reporter) error{
	"greeter":  greeterRole,
	"caller":   callerRole,
	"stranger": strangerRole,
	"probe":    probeRole,
}

func TestMain(m *testing.M) {
	role := roles[filepath.Base(os.Args[0])]
	if role == nil {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	out := &reporter{enc: json.NewEncoder(os.Stdout)}
	err := role(ctx, out)
	stop()
	if err != nil {
		out.say(event{Kind: kindEnd, Text: err.Error()})
		os.Exit(1)
	}
}

// What an agent program tells the test.
const (
	kindReady   = "ready"   // it has an identity, and the greeter serves
	kindSVID    = "svid"    // it has a new certificate
	kindFailed  = "failed"  // a call failed
	kindTally   = "tally"   // calls so far
	kindRefused = "refused" // the stranger knocked and was refused
	kindEnd     = "end"     // the program fails
)

// event is one line of an agent program's standard output.
type event struct {
	Kind     string    `json:"kind"`
	At       time.Time `json:"at"`
	Text     string    `json:"text,omitempty"`
	Addr     string    `json:"addr,omitempty"`
	Reason   string    `json:"reason,omitempty"`
	Decision string    `json:"decision,omitempty"`
	// Chain is the own certificate and its intermediates in DER.
	Chain [][]byte `json:"chain,omitempty"`
	// Calls and Failures count, LastOK is when the last call that succeeded was answered.
	Calls    int       `json:"calls,omitempty"`
	Failures int       `json:"failures,omitempty"`
	LastOK   time.Time `json:"last_ok,omitzero"`
	// Worst is the longest that a call took since the tally before.
	Worst time.Duration `json:"worst,omitempty"`
}

// reporter writes events.
type reporter struct {
	mu  sync.Mutex
	enc *json.Encoder
}

func (r *reporter) say(e event) {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = time.Now()
	if err := r.enc.Encode(e); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
}

// follow reports the first certificate of src as ready, with addr, and every later one.
func (r *reporter) follow(ctx context.Context, src identity.Source, addr string) {
	kind, last := kindReady, ""
	for {
		updated := src.Updated()
		if svid, err := src.GetX509SVID(); err == nil && svid.Certificates[0].SerialNumber.String() != last {
			last = svid.Certificates[0].SerialNumber.String()
			e := event{Kind: kind, Text: svid.ID.String(), Addr: addr}
			for _, c := range svid.Certificates {
				e.Chain = append(e.Chain, c.Raw)
			}
			r.say(e)
			kind = kindSVID
		}
		select {
		case <-ctx.Done():
			return
		case <-updated:
		}
	}
}
