package authority_test

import (
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/authority"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func TestWorkloadGetsItsOwnIdentity(t *testing.T) {
	a, log := world(t)
	op := operator(t, a)
	first, second := startHelper(t), startHelper(t)
	for id, p := range map[string]*workloadProcess{alice: first, bob: second} {
		r, err := op.AdmitWorkload(t.Context(), &rpcv1.AdmitWorkloadRequest{SpiffeId: id, Pid: int32(p.pid())})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.GetExeSha256()) != 32 || r.GetUid() != uint32(os.Geteuid()) {
			t.Errorf("AdmitWorkload() = %v", r)
		}
	}
	for id, p := range map[string]*workloadProcess{alice: first, bob: second} {
		if got := p.do("fetch", a.WorkloadSocket()); got != id {
			t.Errorf("fetch() = %q, want %q", got, id)
		}
	}
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_WORKLOAD_ADMITTED)); got != 2 {
		t.Errorf("%d admissions recorded, want 2", got)
	}
	issued := log.allowed(v1.EventKind_EVENT_KIND_SVID_ISSUED)
	if len(issued) != 2 || len(issued[0].GetPeer().GetCertSha256()) != 32 || issued[0].GetPeer().GetSerial() == "" {
		t.Errorf("issues recorded: %v", issued)
	}
	// A second fetch of the same process gets the same SVID: no new key, no new record.
	first.do("fetch", a.WorkloadSocket())
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_SVID_ISSUED)); got != 2 {
		t.Errorf("%d issues after a second fetch, want 2", got)
	}
}

func TestUnregisteredProcessGetsNothing(t *testing.T) {
	a, log := world(t)
	if got, want := startHelper(t).do("fetch", a.WorkloadSocket()), "PermissionDenied PEER_UNVERIFIED"; got != want {
		t.Errorf("fetch() = %q, want %q", got, want)
	}
	refused := log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED)
	if len(refused) != 1 || refused[0].GetReason() != v1.Reason_REASON_WORKLOAD_UNATTESTED || len(refused[0].GetDecisionId()) != 16 {
		t.Errorf("refusals recorded: %v", refused)
	}
}

func TestChildOfAWorkloadIsNotTheWorkload(t *testing.T) {
	a, _ := world(t)
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	if got, want := p.do("child", "fetch", a.WorkloadSocket()), "PermissionDenied PEER_UNVERIFIED"; got != want {
		t.Errorf("fetch() by a child = %q, want %q", got, want)
	}
}

func TestWorkloadIsNoOperator(t *testing.T) {
	a, log := world(t)
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	const want = "PermissionDenied PEER_UNVERIFIED"
	for name, command := range map[string][]string{
		"itself as its sibling":  {"admit", a.OperatorSocket(), bob, "self"},
		"child as its sibling":   {"child", "admit", a.OperatorSocket(), bob, "self"},
		"grandchild":             {"child", "child", "admit", a.OperatorSocket(), bob, "self"},
		"its parent as an agent": {"admit", a.OperatorSocket(), bob, strconv.Itoa(os.Getpid())},
	} {
		if got := p.do(command...); got != want {
			t.Errorf("%s: admit() = %q, want %q", name, got, want)
		}
	}
	if got := p.do("fetch", a.WorkloadSocket()); got != alice {
		t.Errorf("fetch() afterwards = %q, want %q", got, alice)
	}
	refused := log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED)
	if len(refused) != 4 {
		t.Fatalf("%d refusals recorded, want 4", len(refused))
	}
	for _, e := range refused {
		if e.GetReason() != v1.Reason_REASON_OPERATOR_REQUIRED || e.GetWireReason() != v1.Reason_REASON_PEER_UNVERIFIED ||
			len(e.GetDecisionId()) != 16 || !strings.Contains(e.GetCause(), alice) {
			t.Errorf("refusal recorded as %v", e)
		}
	}
}

func TestAdmissionRefusals(t *testing.T) {
	a, log := world(t)
	op := operator(t, a)
	p := startHelper(t)
	if _, err := op.AdmitWorkload(t.Context(), &rpcv1.AdmitWorkloadRequest{SpiffeId: alice, Pid: int32(p.pid())}); err != nil {
		t.Fatal(err)
	}
	pinned := newAgent("spiffe://dev.example/tenant/acme/agent/pinned")
	pinned.Selectors = []*v1.AgentSelector{{Type: "exe_sha256", Value: strings.Repeat("0", 64)}}
	if _, err := a.RegisterAgent(t.Context(), pinned); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, id string
		pid      int
		want     codes.Code
	}{
		{"not an identity", "spiffe://dev.example/x", p.pid(), codes.InvalidArgument},
		{"not registered", "spiffe://dev.example/tenant/acme/agent/eve", p.pid(), codes.NotFound},
		{"a service", memory, p.pid(), codes.NotFound},
		{"pid zero", alice, 0, codes.FailedPrecondition},
		{"negative pid", alice, -1, codes.FailedPrecondition},
		{"no such process", alice, 1 << 30, codes.FailedPrecondition},
		{"the caller itself", alice, os.Getpid(), codes.InvalidArgument},
		{"the first process", alice, 1, codes.InvalidArgument},
		{"the same process as another agent", bob, p.pid(), codes.AlreadyExists},
		{"another executable than the record demands", pinned.GetSpiffeId(), startHelper(t).pid(), codes.FailedPrecondition},
		{"the same again", alice, p.pid(), codes.OK},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := len(log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED))
			_, err := op.AdmitWorkload(t.Context(), &rpcv1.AdmitWorkloadRequest{SpiffeId: tt.id, Pid: int32(tt.pid)})
			if got := status.Code(err); got != tt.want {
				t.Errorf("AdmitWorkload() = %v, want %v", err, tt.want)
			}
			if got := len(log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED)) - before; tt.want != codes.OK && got != 1 {
				t.Errorf("%d refusals recorded, want 1", got)
			}
		})
	}
}

// otherProgram is the test binary with one byte more: the same behaviour under another digest.
func otherProgram(t *testing.T) string {
	t.Helper()
	in, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	path := filepath.Join(t.TempDir(), "other")
	out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, 0o700)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestExecLosesTheIdentity(t *testing.T) {
	a, log := world(t)
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	if got := p.do("fetch", a.WorkloadSocket()); got != alice {
		t.Fatalf("fetch() = %q, want %q", got, alice)
	}
	if got := p.do("exec", otherProgram(t)); got != "again" {
		t.Fatalf("exec() = %q", got)
	}
	if got, want := p.do("fetch", a.WorkloadSocket()), "PermissionDenied PEER_UNVERIFIED"; got != want {
		t.Errorf("fetch() after exec = %q, want %q", got, want)
	}
	// It is not an operator either: the process is still the admitted one.
	if got, want := p.do("admit", a.OperatorSocket(), bob, "self"), "PermissionDenied PEER_UNVERIFIED"; got != want {
		t.Errorf("admit() after exec = %q, want %q", got, want)
	}
	refused := log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED)
	if len(refused) == 0 || !strings.Contains(refused[0].GetCause(), "another executable") {
		t.Errorf("refusals recorded: %v", refused)
	}
}

func TestStreamThatSurvivesAnExecGetsNoRotation(t *testing.T) {
	a, log := world(t, func(c *authority.Config) { c.SVIDLifetime = 2 * time.Second })
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	p.send("hold-exec", a.WorkloadSocket(), otherProgram(t))
	until(t, "the refusal", func() bool {
		refused := log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED)
		return len(refused) > 0 && strings.Contains(refused[0].GetCause(), "another executable")
	})
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_SVID_ISSUED)); got == 0 {
		t.Error("the refusal came before the first SVID")
	}
}

func TestExitEndsTheRegistration(t *testing.T) {
	a, _ := world(t)
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	if got := a.Status().GetWorkloads(); got != 1 {
		t.Fatalf("%d workloads, want 1", got)
	}
	p.stop()
	until(t, "the registration to end", func() bool { return a.Status().GetWorkloads() == 0 })
}

func TestMetadataIsRequired(t *testing.T) {
	a, _ := world(t)
	conn, err := dial(a.WorkloadSocket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	client := workloadpb.NewSpiffeWorkloadAPIClient(conn)
	for _, tt := range []struct {
		name   string
		values []string
		want   codes.Code
	}{
		{"missing", nil, codes.InvalidArgument},
		{"false", []string{"false"}, codes.InvalidArgument},
		{"upper case", []string{"TRUE"}, codes.InvalidArgument},
		{"twice", []string{"true", "true"}, codes.InvalidArgument},
		{"present, but no identity", []string{"true"}, codes.PermissionDenied},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx := metadata.NewOutgoingContext(t.Context(), metadata.MD{"workload.spiffe.io": tt.values})
			svids, err := client.FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := svids.Recv(); status.Code(err) != tt.want {
				t.Errorf("FetchX509SVID() = %v, want %v", err, tt.want)
			}
			bundles, err := client.FetchX509Bundles(ctx, &workloadpb.X509BundlesRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bundles.Recv(); status.Code(err) != tt.want {
				t.Errorf("FetchX509Bundles() = %v, want %v", err, tt.want)
			}
		})
	}
	ctx := metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true")
	if _, err := client.FetchJWTSVID(ctx, &workloadpb.JWTSVIDRequest{Audience: []string{"x"}}); status.Code(err) != codes.Unimplemented {
		t.Errorf("FetchJWTSVID() = %v, want Unimplemented", err)
	}
}

func TestUnmodifiedSourceSeesRotations(t *testing.T) {
	a, log := world(t, func(c *authority.Config) { c.SVIDLifetime = 2 * time.Second })
	p := startHelper(t)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	if got := p.do("source", a.WorkloadSocket(), "3"); got != alice {
		t.Errorf("source() = %q, want 3 rotations of %q", got, alice)
	}
	if got := len(log.allowed(v1.EventKind_EVENT_KIND_SVID_ISSUED)); got < 4 {
		t.Errorf("%d issues recorded, want at least 4", got)
	}
}

func TestNothingIsIssuedUnrecorded(t *testing.T) {
	a, log := world(t)
	p := startHelper(t)
	log.stop(true)
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err == nil {
		t.Error("AdmitWorkload() without a log = nil, want an error")
	}
	log.stop(false)
	if got := a.Status().GetWorkloads(); got != 0 {
		t.Errorf("%d workloads after an unrecorded admission, want 0", got)
	}
	if _, _, err := a.AdmitWorkload(t.Context(), agentID(t, alice), p.pid()); err != nil {
		t.Fatal(err)
	}
	log.stop(true)
	if got, want := p.do("fetch", a.WorkloadSocket()), "Unavailable AUDIT_UNAVAILABLE"; got != want {
		t.Errorf("fetch() without a log = %q, want %q", got, want)
	}
	log.stop(false)
	if got := p.do("fetch", a.WorkloadSocket()); got != alice {
		t.Errorf("fetch() with the log back = %q, want %q", got, alice)
	}
}

func TestRefusalsInAFloodAreCounted(t *testing.T) {
	a, log := world(t)
	p := startHelper(t)
	const calls = 25
	for range calls {
		p.do("fetch", a.WorkloadSocket())
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	var singles, counted uint64
	for _, e := range log.denied(v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED) {
		counted += e.GetRepeatedCount()
		if len(e.GetDecisionId()) > 0 {
			singles++
		}
	}
	if singles+counted != calls {
		t.Errorf("%d single refusals and %d counted ones, want %d in all", singles, counted, calls)
	}
}

func TestRefusalCarriesADecisionID(t *testing.T) {
	a, log := world(t)
	_, err := operator(t, a).RegisterAgent(t.Context(), &rpcv1.RegisterAgentRequest{Agent: &v1.Agent{}})
	info := errorInfo(t, err)
	if info.GetDomain() != "safeconduct" || info.GetReason() != "MALFORMED" {
		t.Errorf("ErrorInfo = %v", info)
	}
	refused := log.denied(v1.EventKind_EVENT_KIND_REGISTRY_CHANGED)
	if len(refused) != 1 || hex.EncodeToString(refused[0].GetDecisionId()) != info.GetMetadata()["decision_id"] {
		t.Errorf("refusals recorded: %v, want decision %v", refused, info.GetMetadata())
	}
}
