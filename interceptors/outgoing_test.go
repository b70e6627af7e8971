package interceptors_test

import (
	"context"
	"errors"
	"testing"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/meshtest"
)

// remote is a refusal that the callee answered with.
type remote struct{ decision []byte }

func (remote) Error() string               { return "denied" }
func (remote) WireCode() interceptors.Code { return interceptors.CodePermissionDenied }
func (remote) WireReason() v1.Reason       { return v1.Reason_REASON_SCOPE }
func (r remote) RemoteDecision() []byte    { return r.decision }

func TestOutgoingCallsAreRecorded(t *testing.T) {
	theirs := make([]byte, 16)
	theirs[0] = 7
	tests := []struct {
		name     string
		err      error
		code     interceptors.Code
		decision v1.EventDecision
		reason   v1.Reason
	}{
		{"success", nil, interceptors.CodeOK, allow, 0},
		{"refused there", remote{theirs}, interceptors.CodePermissionDenied, denied, v1.Reason_REASON_SCOPE},
		{"connection lost", errors.New("reset\n"), interceptors.CodeInternal, allow, 0},
		{"cancelled", context.Canceled, interceptors.CodeCanceled, allow, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newScene(t)
			m := s.end.Methods().Lookup(unary)
			leaf := s.Root(t, s.writer, meshtest.Task("task-1"))
			env := s.envelope()
			env.Payload = []byte("12345")
			o, err := s.end.OpenOutgoing(t.Context(), s.relay, env, leaf, m)
			if err != nil {
				t.Fatal(err)
			}
			if o.Position() == (audit.Position{}) {
				t.Error("no position")
			}
			receipt := &v1.AuditReceipt{Seq: 9}
			if err := o.Close(tt.err, receipt, 3); err != nil {
				t.Fatal(err)
			}
			if err := o.Close(errors.New("again"), nil, 0); err != nil {
				t.Fatal(err)
			}
			intent, outcome := s.pair()
			chainID := leaf.ChainID()
			if intent.GetDirection() != v1.EventDirection_EVENT_DIRECTION_OUTBOUND || intent.GetDecision() != allow || intent.GetTaskId() != "task-1" ||
				string(intent.GetChainId()) != string(chainID[:]) || intent.GetDepth() != 1 || intent.GetRequestBytes() != 5 || intent.GetActor().GetAgentClass() == "" {
				t.Errorf("intent %v", intent)
			}
			if outcome.GetDecision() != tt.decision || outcome.GetReason() != tt.reason || outcome.GetOutcome().GetCode() != uint32(tt.code) ||
				outcome.GetPeerReceipt().GetSeq() != 9 || outcome.GetOutcome().GetBytesIn() != 3 {
				t.Errorf("outcome %v", outcome)
			}
			if tt.decision == denied && outcome.GetDecisionId()[0] != 7 {
				t.Errorf("the callee's decision id is lost: %x", outcome.GetDecisionId())
			}
		})
	}
}

func TestNothingIsSentUnrecorded(t *testing.T) {
	s := newScene(t)
	m := s.end.Methods().Lookup(unary)
	s.end.Log.Fail(func(*audit.Event) error { return audit.ErrFull })
	o, err := s.end.OpenOutgoing(t.Context(), s.relay, s.envelope(), nil, m)
	wantReason(t, "OpenOutgoing with a full log", err, v1.Reason_REASON_AUDIT_UNAVAILABLE)
	if o != nil {
		t.Error("an outgoing call without a record")
	}
	s.end.Log.Fail(nil)
	o, err = s.end.OpenOutgoing(t.Context(), s.relay, s.envelope(), nil, m)
	if err != nil {
		t.Fatal(err)
	}
	s.end.Log.Fail(func(*audit.Event) error { return audit.ErrPoisoned })
	wantReason(t, "Close with a poisoned log", o.Close(nil, nil, 0), v1.Reason_REASON_OUTCOME_UNKNOWN)
}
