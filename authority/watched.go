package authority

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// watchOverlap is how long the streams of one runtime may stand side by side: a connection that was cut ends in milliseconds, and its
// successor begins after a pause.
const watchOverlap = 3 * time.Second

// watched counts, for each agent, the certificates with which its runtimes follow the trust bundle. A runtime has one such stream, so
// two of them with different certificates are two processes, wherever they run and whoever issued the certificates.
type watched struct {
	mu     sync.Mutex
	agents map[identity.AgentID]*watchedAgent // as many as there are streams, at most maxWatchers
}

type watchedAgent struct {
	streams map[[32]byte]int // by the digest of the certificate
	episode int              // changes when the number of certificates falls below two
	two     bool             // there have been two for watchOverlap
}

// enter notes a stream and returns the episode of an overlap that begins with it, 0 when none does.
func (w *watched) enter(id identity.AgentID, cert [32]byte) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agents[id]
	if a == nil {
		a = &watchedAgent{streams: map[[32]byte]int{}, episode: 1}
		if w.agents == nil {
			w.agents = map[identity.AgentID]*watchedAgent{}
		}
		w.agents[id] = a
	}
	if a.streams[cert]++; a.streams[cert] == 1 && len(a.streams) == 2 {
		return a.episode
	}
	return 0
}

// leave notes the end of a stream and reports whether the agent was known as two processes and is no longer.
func (w *watched) leave(id identity.AgentID, cert [32]byte) (ended bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agents[id]
	if a.streams[cert]--; a.streams[cert] == 0 {
		delete(a.streams, cert)
	}
	if len(a.streams) < 2 {
		ended, a.two = a.two, false
		a.episode++
	}
	if len(a.streams) == 0 {
		delete(w.agents, id)
	}
	return ended
}

// settle reports whether the overlap of an episode has lasted.
func (w *watched) settle(id identity.AgentID, episode int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.agents[id]
	if a == nil || a.episode != episode || len(a.streams) < 2 {
		return false
	}
	a.two = true
	return true
}

// count returns how many processes of an agent follow the bundle, when they are known to be more than one.
func (w *watched) count(id identity.AgentID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	if a := w.agents[id]; a != nil && a.two {
		return len(a.streams)
	}
	return 0
}

// watch notes that a runtime follows the bundle, until the returned function is called.
func (a *Authority) watch(ctx context.Context, p identity.Peer) (done func()) {
	if p.CertID == [32]byte{} {
		return func() {}
	}
	ctx = context.WithoutCancel(ctx)
	if episode := a.watched.enter(p.Agent, p.CertID); episode > 0 {
		time.AfterFunc(watchOverlap, func() { // when it has ended by then, nothing comes of it
			if a.watched.settle(p.Agent, episode) {
				a.twoWatch(ctx, p.Agent)
			}
		})
	}
	return func() {
		if a.watched.leave(p.Agent, p.CertID) {
			a.tellProcesses(ctx, p.Agent)
		}
	}
}

// twoWatch records that two processes of one agent follow the bundle, and publishes it.
func (a *Authority) twoWatch(ctx context.Context, id identity.AgentID) {
	if a.open() == nil && a.duplicates.due(id, a.cfg.Now()) {
		a.writeDuplicate(ctx, &v1.AuditEvent{
			Kind: v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY, Tenant: id.Tenant().Name(), Peer: a.party(id),
			Decision: v1.EventDecision_EVENT_DECISION_ALLOW, Transport: "grpc",
			Detail: fmt.Sprintf("%d processes with certificates of their own follow the trust bundle", a.watched.count(id)),
		})
	}
	a.tellProcesses(ctx, id)
}
