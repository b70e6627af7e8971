package authority

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

const errorDomain = "safeconduct"

// refusal is how one kind of error looks on the wire and in the audit log.
type refusal struct {
	is      error
	code    codes.Code
	wire    v1.Reason
	reason  v1.Reason // finer, for the log
	visible bool      // the operator sees the cause: it is about the operator's own request
}

// refusals is the one table from errors to answers; the first match counts, no match is INTERNAL.
var refusals = []refusal{
	{errNotOperator, codes.PermissionDenied, v1.Reason_REASON_PEER_UNVERIFIED, v1.Reason_REASON_OPERATOR_REQUIRED, false},
	{errNoCaller, codes.PermissionDenied, v1.Reason_REASON_PEER_UNVERIFIED, v1.Reason_REASON_WORKLOAD_UNATTESTED, false},
	{ErrAudit, codes.Unavailable, v1.Reason_REASON_AUDIT_UNAVAILABLE, v1.Reason_REASON_AUDIT_UNAVAILABLE, false},
	{ErrClosed, codes.Unavailable, v1.Reason_REASON_SESSION_DRAINING, v1.Reason_REASON_SESSION_DRAINING, false},
	{ErrUnknownAgent, codes.NotFound, v1.Reason_REASON_NOT_FOUND, v1.Reason_REASON_PEER_UNREGISTERED, true},
	{ErrInvalid, codes.InvalidArgument, v1.Reason_REASON_MALFORMED, v1.Reason_REASON_MALFORMED, true},
	{ErrConflict, codes.AlreadyExists, v1.Reason_REASON_CONFLICT, v1.Reason_REASON_CONFLICT, true},
	{ErrDuplicate, codes.FailedPrecondition, v1.Reason_REASON_AGENT_STATE, v1.Reason_REASON_PEER_DUPLICATE, true},
	{ErrAdmitted, codes.AlreadyExists, v1.Reason_REASON_CONFLICT, v1.Reason_REASON_CONFLICT, true},
	{ErrLimit, codes.ResourceExhausted, v1.Reason_REASON_LIMIT, v1.Reason_REASON_LIMIT, true},
	{ErrUnattested, codes.FailedPrecondition, v1.Reason_REASON_PEER_UNVERIFIED, v1.Reason_REASON_WORKLOAD_UNATTESTED, true},
	{ErrCeiling, codes.PermissionDenied, v1.Reason_REASON_SCOPE, v1.Reason_REASON_GRANT_OUTSIDE_CEILING, true},
	{errRenewalRate, codes.ResourceExhausted, v1.Reason_REASON_RATE, v1.Reason_REASON_RATE, false},
	{errInactiveMember, codes.PermissionDenied, v1.Reason_REASON_CHAIN_REVOKED, v1.Reason_REASON_CHAIN_HANDLE_REVOKED, false},
	{policy.ErrTable, codes.FailedPrecondition, v1.Reason_REASON_POLICY, v1.Reason_REASON_TABLE_REJECTED, true},
}

var (
	// errNotOperator is the refusal of the operator socket.
	errNotOperator = errors.New("caller is not the operator")
	// errNoCaller is the refusal of a peer without identity.
	errNoCaller = errors.New("caller has no identity")
	// errRenewalRate is the refusal of a holder that renews too often.
	errRenewalRate = errors.New("over the rate of one agent")
	// errInactiveMember is the refusal to go on with what a contained agent has handed on.
	errInactiveMember = errors.New("an agent of the chain is not active")
)

func classify(err error) refusal {
	for _, r := range refusals {
		if errors.Is(err, r.is) {
			return r
		}
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return refusal{err, codes.DeadlineExceeded, v1.Reason_REASON_DEADLINE, v1.Reason_REASON_DEADLINE, false}
	case errors.Is(err, context.Canceled):
		return refusal{err, codes.Canceled, v1.Reason_REASON_DEADLINE, v1.Reason_REASON_CANCELLED, false}
	}
	return refusal{err, codes.Internal, v1.Reason_REASON_INTERNAL, v1.Reason_REASON_INTERNAL, false}
}

// statusOf is the answer to err under decision id.
func statusOf(err error, decision []byte) error {
	r := classify(err)
	text := "refused"
	if r.visible {
		text = err.Error()
	}
	info := &errdetails.ErrorInfo{
		Reason: strings.TrimPrefix(r.wire.String(), "REASON_"), Domain: errorDomain,
		Metadata: map[string]string{"decision_id": hex.EncodeToString(decision)},
	}
	st, detailErr := status.New(r.code, text).WithDetails(info)
	if detailErr != nil {
		return status.Error(r.code, text)
	}
	return st.Err()
}

// newDecisionID returns 16 random bytes: what a refused caller sees and the log explains.
func newDecisionID() ([]byte, error) {
	id := make([]byte, 16)
	if _, err := rand.Read(id); err != nil {
		return nil, fmt.Errorf("decision id: %w", err)
	}
	return id, nil
}
