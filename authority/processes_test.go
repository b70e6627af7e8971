package authority_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/authority"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
)

const loner = "spiffe://dev.example/tenant/acme/agent/loner"

// published is what the signed trust bundle says of an agent.
func published(t *testing.T, a *authority.Authority, id string) *v1.Agent {
	t.Helper()
	b := &v1.TrustBundle{}
	if err := proto.Unmarshal(a.Bundle().GetPayload(), b); err != nil {
		t.Fatal(err)
	}
	for _, rec := range b.GetAgents() {
		if rec.GetSpiffeId() == id {
			return rec
		}
	}
	t.Fatalf("%s is not in the bundle", id)
	return nil
}

// Two processes of one agent get their SVIDs, are recorded once a minute, and every runtime is told as long as they are two.
func TestSecondWorkloadIsRecordedAndPublished(t *testing.T) {
	var ahead atomic.Int64
	a, log := world(t, func(c *authority.Config) {
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
	})
	id := agentID(t, alice)
	first, second := startHelper(t), startHelper(t)
	admit := func(p *workloadProcess) {
		t.Helper()
		if _, _, err := a.AdmitWorkload(t.Context(), id, p.pid()); err != nil {
			t.Fatal(err)
		}
	}
	replicated := func() bool {
		rec := published(t, a, alice)
		if got := rec.GetProcesses() > 1; got != a.Registry().Agent(id).Replicated {
			t.Fatalf("bundle and registry differ: %v", rec)
		}
		return a.Registry().Agent(id).Replicated
	}
	admit(first)
	admit(first) // the same process again
	if replicated() || len(log.allowed(v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY)) != 0 {
		t.Fatal("one process is taken for two")
	}
	serial, generation := a.Status().GetBundleSerial(), a.Registry().Generation()
	admit(second)
	if !replicated() || a.Status().GetBundleSerial() <= serial || a.Registry().Generation() <= generation {
		t.Error("the second process was not published")
	}
	if got := published(t, a, alice).GetProcesses(); got != 2 {
		t.Errorf("%d processes", got)
	}
	for _, p := range []*workloadProcess{first, second} {
		if got := p.do("fetch", a.WorkloadSocket()); got != alice {
			t.Errorf("fetch() = %q, want %q", got, alice)
		}
	}
	admit(startHelper(t)) // a third within the minute
	records := log.allowed(v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY)
	if len(records) != 1 || records[0].GetPeer().GetSpiffeId() != alice || !strings.Contains(records[0].GetDetail(), strconv.Itoa(second.pid())) {
		t.Errorf("records %v, want one that names pid %d", records, second.pid())
	}
	ahead.Store(int64(time.Minute))
	third := startHelper(t)
	admit(third)
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY)); got != 2 {
		t.Errorf("%d records a minute later, want 2", got)
	}
	if _, err := a.RegisterAgent(t.Context(), newAgent("spiffe://dev.example/tenant/acme/agent/later")); err != nil {
		t.Fatal(err)
	}
	if !replicated() {
		t.Error("another registration hides the second process")
	}
}

func TestEndOfASecondWorkloadIsPublished(t *testing.T) {
	a, _ := world(t)
	id := agentID(t, alice)
	first, second := startHelper(t), startHelper(t)
	for _, p := range []*workloadProcess{first, second} {
		if _, _, err := a.AdmitWorkload(t.Context(), id, p.pid()); err != nil {
			t.Fatal(err)
		}
	}
	if !a.Registry().Agent(id).Replicated {
		t.Fatal("two processes are not published")
	}
	second.stop()
	until(t, "the end of the second process to be published", func() bool {
		return !a.Registry().Agent(id).Replicated && published(t, a, alice).GetProcesses() == 0
	})
}

// A second process of an agent that is one process gets no SVID while the first lives, and gets one when that has ended.
func TestSecondWorkloadOfASingleProcessIsRefused(t *testing.T) {
	a, log := world(t)
	single := newAgent(loner)
	single.SingleProcess = true
	rec, err := a.RegisterAgent(t.Context(), single)
	if err != nil || !rec.GetSingleProcess() || !published(t, a, loner).GetSingleProcess() || !a.Registry().Agent(agentID(t, loner)).SingleProcess {
		t.Fatalf("RegisterAgent() = %v, %v", rec, err)
	}
	if _, err := a.RegisterAgent(t.Context(), newAgent(loner)); !errors.Is(err, authority.ErrConflict) {
		t.Errorf("RegisterAgent(without it) = %v, want ErrConflict", err)
	}
	op := operator(t, a)
	first, second := startHelper(t), startHelper(t)
	admit := func(p *workloadProcess) error {
		_, err := op.AdmitWorkload(t.Context(), &rpcv1.AdmitWorkloadRequest{SpiffeId: loner, Pid: int32(p.pid())})
		return err
	}
	if err := admit(first); err != nil {
		t.Fatal(err)
	}
	err = admit(second)
	if status.Code(err) != codes.FailedPrecondition || errorInfo(t, err).GetReason() != "AGENT_STATE" {
		t.Errorf("AdmitWorkload(second) = %v", err)
	}
	if want := "pid " + strconv.Itoa(first.pid()); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "must end first") {
		t.Errorf("AdmitWorkload(second) = %v, want words that name %s and say what to do", err, want)
	}
	if got := second.do("fetch", a.WorkloadSocket()); got != "PermissionDenied PEER_UNVERIFIED" {
		t.Errorf("fetch() by the second = %q", got)
	}
	if err := admit(first); err != nil {
		t.Errorf("AdmitWorkload(first, again) = %v", err)
	}
	records := log.denied(v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY)
	if len(records) != 1 || records[0].GetReason() != v1.Reason_REASON_PEER_DUPLICATE {
		t.Errorf("records %v", records)
	}
	if refused := log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED); len(refused) == 0 || refused[0].GetReason() != v1.Reason_REASON_PEER_DUPLICATE {
		t.Errorf("refusals recorded: %v", refused)
	}
	if a.Registry().Agent(agentID(t, loner)).Replicated {
		t.Error("a refused process counts as live")
	}

	first.stop()
	if err := admit(second); err != nil {
		t.Fatalf("AdmitWorkload(second) after the first ended = %v", err)
	}
	if got := second.do("fetch", a.WorkloadSocket()); got != loner {
		t.Errorf("fetch() by the second = %q, want %q", got, loner)
	}
}

// Where another issuer makes the SVIDs, the authority sees its runtimes: two that follow the bundle with certificates of their own are two
// processes, and one that comes back with a new certificate is not.
func TestTwoRuntimesThatFollowTheBundle(t *testing.T) {
	t.Parallel()
	a, log := world(t, func(c *authority.Config) {
		c.PeerFrom = func(ctx context.Context) (identity.Peer, bool) {
			p, ok := peerFrom(ctx)
			if md, _ := metadata.FromIncomingContext(ctx); len(md.Get("test-cert")) == 1 {
				p.CertID = sha256.Sum256([]byte(md.Get("test-cert")[0]))
			}
			return p, ok
		}
	})
	client := serve(t, a)
	follow := func(id, cert string) (end func()) {
		t.Helper()
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(as(t.Context(), id), "test-cert", cert))
		stream, err := client.WatchTrust(ctx, &rpcv1.WatchTrustRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		return cancel
	}
	records := func() int { return len(log.allowed(v1.EventKind_EVENT_KIND_DUPLICATE_IDENTITY)) }
	replicated := func(id string) bool { return a.Registry().Agent(agentID(t, id)).Replicated }

	// bob is one process that comes back, the old stream ending a little later; alice is two.
	old := follow(bob, "1")
	follow(bob, "2")
	old()
	follow(alice, "1")
	second := follow(alice, "2")
	until(t, "two processes of alice to be published", func() bool { return replicated(alice) })
	if records() != 1 || published(t, a, alice).GetProcesses() != 2 || replicated(bob) {
		t.Errorf("%d records, published %v, bob %v", records(), published(t, a, alice), replicated(bob))
	}
	follow(alice, "2") // another stream with the same certificate
	second()
	if !replicated(alice) {
		t.Error("the end of one of two streams of a process ends the process")
	}
	if a.Close() != nil {
		t.Error("Close() with streams")
	}
}

func TestEndOfASecondRuntimeIsPublished(t *testing.T) {
	t.Parallel()
	cert := func(ctx context.Context) string {
		md, _ := metadata.FromIncomingContext(ctx)
		return strings.Join(md.Get("test-cert"), "")
	}
	a, _ := world(t, func(c *authority.Config) {
		c.PeerFrom = func(ctx context.Context) (identity.Peer, bool) {
			p, ok := peerFrom(ctx)
			p.CertID = sha256.Sum256([]byte(cert(ctx)))
			return p, ok
		}
	})
	client := serve(t, a)
	for _, c := range []string{"1", "2"} {
		ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(as(t.Context(), alice), "test-cert", c))
		defer cancel()
		stream, err := client.WatchTrust(ctx, &rpcv1.WatchTrustRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Recv(); err != nil {
			t.Fatal(err)
		}
		if c == "2" {
			until(t, "two processes to be published", func() bool { return a.Registry().Agent(agentID(t, alice)).Replicated })
			cancel()
		}
	}
	until(t, "the end of one to be published", func() bool { return !a.Registry().Agent(agentID(t, alice)).Replicated })
}
