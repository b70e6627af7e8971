package audit_test

import (
	"context"
	"sync/atomic"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// typical is an outcome record of about 350 B.
func typical() *v1.AuditEvent {
	id := make([]byte, 16)
	return &v1.AuditEvent{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: v1.EventPhase_EVENT_PHASE_OUTCOME,
		Direction:     v1.EventDirection_EVENT_DIRECTION_INBOUND,
		InteractionId: id, EnvelopeId: id, ConversationId: id, DecisionId: id, Tenant: "acme",
		Actor:  &v1.Party{SpiffeId: "spiffe://mesh.example/tenant/acme/agent/planner/1", AgentClass: "planner"},
		Peer:   &v1.Party{SpiffeId: "spiffe://mesh.example/tenant/acme/agent/search/1", AgentClass: "search"},
		Action: "memory.read", Method: "/safeconduct.rpc.v1.MemoryService/Get", Resource: []string{"notes", "q3"},
		Decision: v1.EventDecision_EVENT_DECISION_ALLOW, PolicySerial: 7,
		Outcome: &v1.Outcome{DurationUs: 250, BytesIn: 120, BytesOut: 900},
	}
}

func openBench(b *testing.B, buffer int) *audit.Log {
	b.Helper()
	l, err := audit.Open(b.TempDir(), audit.Config{Origin: "mesh.example/safeconduct/bench", BufferBytes: buffer})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := l.Close(); err != nil {
			b.Error(err)
		}
	})
	return l
}

func BenchmarkAppendBuffered(b *testing.B) {
	l := openBench(b, 16<<20)
	ev := typical()
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(ctx, audit.Buffered, ev); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkAppendEffect64 has 64 callers that wait for the disk.
func BenchmarkAppendEffect64(b *testing.B) {
	l := openBench(b, 0)
	ctx := context.Background()
	left := new(atomic.Int64)
	left.Store(int64(b.N))
	done := make(chan error, 64)
	b.ReportAllocs()
	b.ResetTimer()
	for range 64 {
		go func() {
			ev := typical()
			for left.Add(-1) >= 0 {
				if _, err := l.Append(ctx, audit.Effect, ev); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	for range 64 {
		if err := <-done; err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}

func BenchmarkAppendEffect1(b *testing.B) {
	l := openBench(b, 0)
	ev := typical()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := l.Append(context.Background(), audit.Effect, ev); err != nil {
			b.Fatal(err)
		}
	}
}
