package runtime

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
)

// Refusal is a call that an enforcement core refused, this side's or the callee's. errors.As finds it; it also is a gRPC status.
type Refusal struct {
	Reason     v1.Reason // the wire reason
	DecisionID []byte    // 16 bytes; names the record in the refusing side's audit log
	status     *status.Status
}

// Error returns the reason and the decision id.
func (r *Refusal) Error() string {
	if bytes.Equal(r.DecisionID, make([]byte, 16)) { // nothing was sent, so there is no decision to look up
		return "refused before it was sent: " + interceptors.ReasonName(r.Reason)
	}
	return fmt.Sprintf("refused: %s (decision %s)", interceptors.ReasonName(r.Reason), hex.EncodeToString(r.DecisionID))
}

// GRPCStatus lets status.FromError and status.Code read the refusal.
func (r *Refusal) GRPCStatus() *status.Status { return r.status }

// WireCode implements interceptors.RemoteError.
func (r *Refusal) WireCode() interceptors.Code { return interceptors.Code(r.status.Code()) }

// WireReason implements interceptors.RemoteError.
func (r *Refusal) WireReason() v1.Reason { return r.Reason }

// RemoteDecision implements interceptors.RemoteError.
func (r *Refusal) RemoteDecision() []byte { return r.DecisionID }

// remoteStatus is a failure that is no refusal: an author's own status, or the transport's.
type remoteStatus struct{ s *status.Status }

func (r *remoteStatus) Error() string               { return r.s.Err().Error() }
func (r *remoteStatus) GRPCStatus() *status.Status  { return r.s }
func (r *remoteStatus) WireCode() interceptors.Code { return interceptors.Code(r.s.Code()) }
func (r *remoteStatus) WireReason() v1.Reason       { return 0 }
func (r *remoteStatus) RemoteDecision() []byte      { return nil }

// refusalOf makes err what callers see: a *Refusal where an enforcement core refused, a status otherwise.
func refusalOf(err error) error {
	if err == nil {
		return nil
	}
	var d *interceptors.Denial
	if errors.As(err, &d) {
		return &Refusal{Reason: d.Wire(), DecisionID: d.DecisionID[:], status: enforcegrpc.Status(d)}
	}
	if r := delegation.ReasonOf(err); r != 0 {
		d := interceptors.Refuse(r, err)
		return &Refusal{Reason: d.Wire(), DecisionID: d.DecisionID[:], status: enforcegrpc.Status(d)}
	}
	s, ok := status.FromError(err)
	if !ok {
		return &remoteStatus{status.New(codes.Unknown, err.Error())}
	}
	for _, detail := range s.Details() {
		info, ok := detail.(*errdetails.ErrorInfo)
		if !ok || info.GetDomain() != interceptors.Domain {
			continue
		}
		reason := v1.Reason(v1.Reason_value["REASON_"+info.GetReason()])
		id, err := hex.DecodeString(info.GetMetadata()["decision_id"])
		if reason == 0 || err != nil || len(id) != 16 {
			continue
		}
		// Built anew, because a refusal has no words: a peer's text in it would reach the caller past every label.
		d := &interceptors.Denial{
			Code: interceptors.Code(s.Code()), Reason: reason, DecisionID: [16]byte(id), RetryAfter: retryAfter(s),
		}
		return &Refusal{Reason: reason, DecisionID: id, status: enforcegrpc.Status(d)}
	}
	return &remoteStatus{s}
}

// maxRetryAfter bounds how long a peer may ask its caller to wait.
const maxRetryAfter = time.Minute

func retryAfter(s *status.Status) time.Duration {
	for _, detail := range s.Details() {
		if info, ok := detail.(*errdetails.RetryInfo); ok {
			return min(max(info.GetRetryDelay().AsDuration(), 0), maxRetryAfter)
		}
	}
	return 0
}

// CodeOf returns the status code that a call ended with.
func CodeOf(err error) interceptors.Code { return interceptors.CodeOf(err) }
