package agenttest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// Message is one message between two agents, as it was on the wire inside TLS.
type Message struct {
	From, To string // SPIFFE IDs
	Reply    bool   // from the callee to its caller
	// Envelope is set for unary calls: the OPEN frame that carries the request, and the RESULT frame that carries the reply.
	Envelope *v1.Envelope
	// Raw is the serialized message: of the Envelope, of a chain that is presented, or of a message of a stream. The caller must
	// not change it.
	Raw []byte
}

// Tap shows every message that agents of the World send each other from now on, before the receiver gets it. It is called from
// several goroutines, before the first Serve. The agents do not notice: a relay that holds their identities stands between them.
// Header fields are not shown.
func (w *World) Tap(see func(Message)) {
	w.tb.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.see != nil || len(w.addresses) > 0 {
		w.tb.Fatal("agenttest: Tap is called once, before Serve")
	}
	w.see = see
}

// tap starts the relay in front of one agent, once.
func (w *World) tap(callee identity.AgentID) {
	w.mu.Lock()
	started := w.taps[callee] != ""
	w.mu.Unlock()
	if started {
		return
	}
	address := Relay(w.tb, RelayConfig{
		Callee: callee,
		Source: func(id identity.AgentID) identity.Source {
			w.mu.Lock()
			defer w.mu.Unlock()
			if src := w.sources[id]; src != nil {
				return src
			}
			return nil
		},
		Address: func() string {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.addresses[callee]
		},
		See: w.see,
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.taps[callee] = address
}

// RelayConfig says between whom a relay stands.
type RelayConfig struct {
	Callee identity.AgentID
	// Source returns the identity of the callee or of a caller, nil for one that is not relayed. It must name the same SPIFFE ID as
	// the process's own.
	Source  func(identity.AgentID) identity.Source
	Address func() string // of the callee
	See     func(Message)
}

// Relay listens on loopback in front of one agent and shows what passes, for tests whose agents are processes of their own: the test
// announces the relay's address in the agent's place. It ends with the test.
func Relay(tb testing.TB, cfg RelayConfig) (address string) {
	tb.Helper()
	own := cfg.Source(cfg.Callee)
	if own == nil {
		tb.Fatalf("agenttest: relay: no identity of %s", cfg.Callee)
		return ""
	}
	var lc net.ListenConfig
	l, err := lc.Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatalf("agenttest: relay: %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r := &relay{cfg: cfg, own: own, ctx: ctx, conns: map[net.Conn]bool{}}
	r.wg.Add(1)
	go r.accept(l)
	tb.Cleanup(func() {
		cancel()
		_ = l.Close()
		r.mu.Lock()
		for c := range r.conns {
			_ = c.Close()
		}
		r.conns = nil
		r.mu.Unlock()
		r.wg.Wait()
	})
	return l.Addr().String()
}

type relay struct {
	cfg   RelayConfig
	own   identity.Source
	ctx   context.Context //nolint:containedctx // it dies with the test.
	wg    sync.WaitGroup
	mu    sync.Mutex
	conns map[net.Conn]bool // nil after the end
}

func (r *relay) accept(l net.Listener) {
	defer r.wg.Done()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		r.wg.Add(1)
		go func() {
			defer r.wg.Done()
			defer func() { _ = c.Close() }()
			if r.hold(c) {
				defer r.drop(c)
				_ = r.serve(c) // how a connection ends is for its two ends to judge
			}
		}()
	}
}

func (r *relay) hold(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.conns == nil {
		return false
	}
	r.conns[c] = true
	return true
}

func (r *relay) drop(c net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.conns, c)
}

var errStranger = errors.New("a caller without an identity in this test")

// serve relays one connection: the caller sees the callee's identity and the callee the caller's.
func (r *relay) serve(raw net.Conn) error {
	down := tls.Server(raw, identity.ServerTLS(r.own))
	if err := down.HandshakeContext(r.ctx); err != nil {
		return err
	}
	peer, err := identity.PeerFromTLS(down.ConnectionState())
	if err != nil {
		return err
	}
	src := r.cfg.Source(peer.Agent)
	if src == nil {
		return errStranger
	}
	d := tls.Dialer{Config: identity.ClientTLS(src, r.cfg.Callee)}
	up, err := d.DialContext(r.ctx, "tcp", r.cfg.Address())
	if err != nil {
		return err
	}
	defer func() { _ = up.Close() }()
	if !r.hold(up) {
		return r.ctx.Err()
	}
	defer r.drop(up)
	c := &calls{see: r.cfg.See, caller: peer.ID.String(), callee: r.cfg.Callee.String()}
	back := make(chan struct{})
	go func() {
		defer close(back)
		_ = copyFrames(down, up, &frames{calls: c, reply: true})
		_ = down.Close()
	}()
	err = copyFrames(up, down, &frames{calls: c, skip: len(preface)})
	_ = up.Close()
	<-back
	return err
}

// copyFrames shows each chunk before it passes it on, so that nothing has an effect that was not seen.
func copyFrames(dst io.Writer, src io.Reader, f *frames) error {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		f.write(buf[:n])
		if _, werr := dst.Write(buf[:n]); werr != nil {
			return werr
		}
		if err != nil {
			return err
		}
	}
}
