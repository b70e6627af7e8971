package interceptors_test

import (
	"bufio"
	"context"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/replaybolt"
)

// killedEnv makes the test binary the process that spends a proof and is killed: "path of the store, key in hex".
const killedEnv = "SAFECONDUCT_TEST_KILLED_PROOF"

// durable gives an endpoint the store at path. It is closed with the test, or before by the returned function.
func durable(t *testing.T, s *scene, path string, o replaybolt.Options) (change func(*interceptors.Config), end func()) {
	t.Helper()
	o.Now = s.Now
	store, err := replaybolt.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	closed := false
	end = func() {
		if !closed {
			closed = true
			if err := store.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(end)
	return func(c *interceptors.Config) { c.Replay = store }, end
}

// serveFrom makes the endpoint of writer anew, as a restart does, without what its memory held.
func (s *scene) serveFrom(methods *interceptors.Methods, change func(*interceptors.Config)) {
	s.t.Helper()
	s.end = s.Enforcer(s.t, s.writer, methods, change)
	s.session = s.Session(s.t, s.end, s.relay)
}

// TestProofAfterRestartIsRefused is row 45, after a restart: the memory of the process is gone, the file is not.
func TestProofAfterRestartIsRefused(t *testing.T) {
	s := proofScene(t)
	methods, path := s.end.Methods(), filepath.Join(t.TempDir(), "replay.db")
	change, end := durable(t, s, path, replaybolt.Options{})
	s.serveFrom(methods, change)
	e := s.prove(s.open(proved))
	wantReason(t, "the first", s.carry(e), 0)
	same := s.withJTI(s.open(proved), delegation.ClaimedJTI(e.GetProof()))
	for range 3 {
		end()
		change, end = durable(t, s, path, replaybolt.Options{})
		s.serveFrom(methods, change)
		wantReason(t, "after a restart", s.carry(proto.CloneOf(e)), replayed)
		wantReason(t, "another message under the jti", s.carry(proto.CloneOf(same)), replayed)
		wantReason(t, "a new proof", s.carry(s.prove(s.open(proved))), 0)
	}
	// A store in memory would have let it through: it is the file that refuses.
	s.serveFrom(methods, func(*interceptors.Config) {})
	wantReason(t, "without the file", s.carry(proto.CloneOf(e)), 0)
}

// TestProofAfterKillIsRefused: the process that admitted the message is killed with SIGKILL as soon as its store has said that the proof is
// spent, before anything else. The next process refuses the same bytes.
func TestProofAfterKillIsRefused(t *testing.T) {
	if spec := os.Getenv(killedEnv); spec != "" {
		spendAndWait(t, spec)
		return
	}
	s := proofScene(t)
	path := filepath.Join(t.TempDir(), "replay.db")
	e := s.prove(s.open(proved))
	var jti v1.InvocationPayload
	if err := proto.Unmarshal(e.GetProof().GetStatement().GetPayload(), &jti); err != nil {
		t.Fatal(err)
	}
	key := delegation.ReplayKey(delegation.ReplayInvocation, s.relay, jti.GetJti())
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProofAfterKillIsRefused$")
	cmd.Env = append(os.Environ(), killedEnv+"="+path, killedEnv+"_KEY="+hex.EncodeToString(key[:]))
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	if !lines.Scan() || lines.Text() != "spent" {
		t.Fatalf("the process says %q", lines.Text())
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	change, _ := durable(t, s, path, replaybolt.Options{})
	s.serveFrom(s.end.Methods(), change)
	wantReason(t, "after the kill", s.carry(e), replayed)
	wantReason(t, "a new proof", s.carry(s.prove(s.open(proved))), 0)
}

func spendAndWait(t *testing.T, path string) {
	raw, err := hex.DecodeString(os.Getenv(killedEnv + "_KEY"))
	if err != nil {
		t.Fatal(err)
	}
	store, err := replaybolt.Open(path, replaybolt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := store.Insert(context.Background(), "mesh.test/acme", [32]byte(raw), time.Now().Add(time.Minute))
	if !fresh || err != nil {
		t.Fatalf("Insert() = %v, %v", fresh, err)
	}
	_, _ = os.Stdout.WriteString("spent\n")
	select {} // until it is killed
}

// TestProofUnderPressure is row 45, after cache pressure: a tenant at its bound is refused, nothing that was spent makes room, another
// tenant goes on.
func TestProofUnderPressure(t *testing.T) {
	s := proofScene(t)
	change, _ := durable(t, s, filepath.Join(t.TempDir(), "replay.db"), replaybolt.Options{PerTenant: 3})
	s.serveFrom(s.end.Methods(), change)
	var spent []*v1.Envelope
	for range 3 {
		e := s.prove(s.open(proved))
		wantReason(t, "below the bound", s.carry(e), 0)
		spent = append(spent, s.withJTI(s.open(proved), delegation.ClaimedJTI(e.GetProof()))) // the ids of messages do not help
	}
	for range 20 {
		wantReason(t, "at the bound", s.carry(s.prove(s.open(proved))), v1.Reason_REASON_LIMIT)
	}
	for _, e := range spent {
		wantReason(t, "what was spent", s.carry(e), replayed)
	}
	wantReason(t, "a message without a proof", s.send(s.envelope()), 0)
	s.Advance(3 * time.Minute) // the proofs have ended
	s.chain = s.newChain()
	wantReason(t, "when they have ended", s.carry(s.prove(s.open(proved))), 0)
}

// TestProofOnAnyTransport is row 45 by the transport that a call came on: the key has none in it.
func TestProofOnAnyTransport(t *testing.T) {
	s := proofScene(t)
	jti := delegation.ClaimedJTI(s.prove(s.open(proved)).GetProof())
	wantReason(t, "the first", s.carry(s.withJTI(s.open(proved), jti)), 0)
	for _, tr := range []interceptors.Transport{
		interceptors.TransportGRPC, interceptors.TransportConnect, interceptors.TransportGRPCWeb, interceptors.TransportDeliver,
	} {
		e := s.withJTI(s.open(proved), jti)
		ctx, in, err := s.end.Open(t.Context(), &interceptors.Call{Session: s.Session(t, s.end, s.relay), Procedure: proved, Transport: tr}, nil)
		if err == nil {
			err = in.CheckCarried(e)
		}
		if err == nil {
			_, err = in.AdmitCarried(ctx, e, request(nil))
		}
		wantReason(t, tr.String(), err, replayed)
		in.Close(&err)
	}
}
