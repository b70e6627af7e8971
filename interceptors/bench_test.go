package interceptors_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"math"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
	"github.com/safeconduct/safeconduct/internal/meshtest/meshpb"
	"github.com/safeconduct/safeconduct/policy/conduct"
)

// bench is one carried call of three hops at the callee, with a log on disk and a method of the buffered class.
type bench struct {
	end     *meshtest.Endpoint
	session *interceptors.Session
	dir     string // of the log
	log     *audit.Log
	env     *v1.Envelope
	req     *meshpb.ForeignRequest
	resp    *meshpb.ForeignResponse
}

func newBench(b testing.TB) *bench {
	b.Helper()
	w := meshtest.New(b)
	first, second, relay, writer := w.Agent("acme", "first"), w.Agent("acme", "second"), w.Agent("acme", "relay"), w.Agent("acme", "writer")
	resource := []string{"agent", "writer"}
	w.Table.Allow("acme", meshtest.DefaultClass, "mesh.foreign", resource, false, writer.String())
	dir := b.TempDir()
	log, err := audit.Open(dir, audit.Config{Origin: meshtest.TrustDomain + "/safeconduct/bench", BufferBytes: 16 << 20})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := log.Close(); err != nil {
			b.Error(err)
		}
	})
	budget := conduct.Budget{Rate: 1e9, Burst: 1e9}
	end := w.Enforcer(b, writer, meshMethods(b), func(c *interceptors.Config) {
		c.Audit, c.AgentBudget, c.TenantBudget, c.ReplayKeys = log, budget, budget, math.MaxInt
	})
	out := &bench{
		end: end, session: w.Session(b, end, relay), dir: dir, log: log,
		req: &meshpb.ForeignRequest{Text: strings.Repeat("x", 1<<10)}, resp: &meshpb.ForeignResponse{Text: strings.Repeat("y", 1<<10)},
	}
	payload, err := proto.Marshal(out.req)
	if err != nil {
		b.Fatal(err)
	}
	sum := sha256.Sum256(payload)
	e := w.Envelope(relay, foreign, "mesh.foreign", resource...)
	e.Kind, e.HalfClose, e.Recipient, e.Payload, e.PayloadType = v1.FrameKind_FRAME_KIND_OPEN, true, writer.String(), payload, "mesh.v1.ForeignRequest"
	e.Intent.ArgumentsDigest, e.DeadlineUnixMs = sum[:], w.Now().Add(5*time.Minute).UnixMilli()
	e.Chain = w.Chain(b, []identity.AgentID{first, second, relay, writer}, meshtest.Capabilities(meshtest.Capability("mesh.foreign", resource...)))
	out.env = e
	return out
}

// deliver is what the dispatcher of runtime does with one Envelope, less decoding and the handler.
func (x *bench) deliver(b testing.TB) {
	b.Helper()
	var err error
	ctx, in, err := x.end.Open(context.Background(), &interceptors.Call{
		Session: x.session, Procedure: x.env.GetMethod(), Transport: interceptors.TransportDeliver,
	}, nil)
	if err == nil {
		err = in.CheckCarried(x.env)
	}
	if err == nil {
		_, err = in.AdmitCarried(ctx, x.env, x.req)
	}
	if err == nil {
		err = in.Emit(x.resp)
	}
	in.Close(&err)
	if err != nil {
		b.Fatal(err)
	}
}

// BenchmarkDeliver is a whole call at the callee: all checks, replay, decision, intent and outcome record.
func BenchmarkDeliver(b *testing.B) {
	for _, byReference := range []bool{false, true} {
		name := map[bool]string{false: "chain", true: "reference"}[byReference]
		b.Run(name, func(b *testing.B) {
			x := newBench(b)
			x.deliver(b)
			if byReference {
				link := sessionLink(b, x)
				x.env.Chain, x.env.ChainRef = nil, link
			}
			n := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				n++
				binary.BigEndian.PutUint64(x.env.Id, n)
				x.deliver(b)
			}
		})
	}
}

// sessionLink presents the chain, as a caller does who means to refer to it.
func sessionLink(b *testing.B, x *bench) []byte {
	b.Helper()
	leaf, err := x.end.Present(context.Background(), &interceptors.Call{Session: x.session}, x.env.GetChain())
	if err != nil {
		b.Fatal(err)
	}
	link := leaf.Link()
	return link[:]
}

// BenchmarkOutgoing is what a call costs its caller in records: an intent before it is sent, an outcome when it has ended.
func BenchmarkOutgoing(b *testing.B) {
	x := newBench(b)
	leaf, err := x.end.Present(context.Background(), &interceptors.Call{Session: x.session}, x.env.GetChain())
	if err != nil {
		b.Fatal(err)
	}
	m := x.end.Methods().Lookup(foreign)
	callee := x.session.Peer().Agent
	receipt := audit.Position{Seq: 1 << 20}.Proto()
	b.ReportAllocs()
	for b.Loop() {
		o, err := x.end.OpenOutgoing(context.Background(), callee, x.env, leaf, m)
		if err == nil {
			err = o.Close(nil, receipt, 1<<10)
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}
