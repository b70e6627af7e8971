package authority

import (
	"context"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/mutant"
	"github.com/safeconduct/safeconduct/policy"
)

const (
	// maxOperatorRequest lets the largest capability table through.
	maxOperatorRequest = policy.MaxTableBytes + (64 << 10)
	// maxStreamsPerConnection bounds calls in flight of one connection.
	maxStreamsPerConnection = 32
	// handshakeTimeout bounds the HTTP/2 preface of a local peer.
	handshakeTimeout = 5 * time.Second
	// maxIdle ends connections without a call, so that idle ones do not use up the slots.
	maxIdle = time.Minute
	// inProcess is who acted when no socket was involved.
	inProcess = "in process"
)

// operatorService serves the local operator.
type operatorService struct {
	rpcv1.UnimplementedOperatorServiceServer
	a *Authority
}

func (a *Authority) serverOptions(maxRequest int) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(peerCredentials{}), grpc.MaxRecvMsgSize(maxRequest), grpc.MaxConcurrentStreams(maxStreamsPerConnection),
		grpc.ConnectionTimeout(handshakeTimeout), grpc.WaitForHandlers(true),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: maxIdle}),
	}
}

func (a *Authority) operatorServer() *grpc.Server {
	gate := func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
		// Before the handler sees the request, for every method that there is or will be.
		if _, err := a.operator(ctx); err != nil {
			return nil, a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, info.FullMethod, err, callerFrom(ctx))
		}
		return next(ctx, req)
	}
	s := grpc.NewServer(append(a.serverOptions(maxOperatorRequest),
		grpc.UnaryInterceptor(gate), grpc.StreamInterceptor(a.refuseStream))...)
	rpcv1.RegisterOperatorServiceServer(s, &operatorService{a: a})
	return s
}

// refuseStream keeps streams, of which there are none, from passing around the gate.
func (a *Authority) refuseStream(_ any, stream grpc.ServerStream, info *grpc.StreamServerInfo, _ grpc.StreamHandler) error {
	ctx := stream.Context()
	return a.trail.deny(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, info.FullMethod, errNotOperator, callerFrom(ctx))
}

// operator returns the lineage of the caller when it is the operator: a process of this user that is no admitted workload and
// descends from none. Errors wrap errNotOperator.
func (a *Authority) operator(ctx context.Context) ([]int, error) {
	who := callerFrom(ctx)
	if who.err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOperator, who.err)
	}
	uid, err := who.proc.uid()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOperator, err)
	}
	if self := os.Geteuid(); int(who.uid) != self || int(uid) != self {
		return nil, fmt.Errorf("%w: user %d, want %d", errNotOperator, who.uid, self)
	}
	// lineage ends with a living caller, so what was read of its number is about it.
	pids, err := lineage(who.proc)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNotOperator, err)
	}
	if w, found := a.workloads.among(pids); found && !mutant.Off(mutant.SiblingSVID) {
		return nil, fmt.Errorf("%w: it is or descends from workload %s (pid %d)", errNotOperator, w.id, w.proc.pid)
	}
	return pids, nil
}

// answer records a refused request of the operator and returns its status, nil for nil.
func (s *operatorService) answer(ctx context.Context, kind v1.EventKind, method string, err error) error {
	if err == nil {
		return nil
	}
	return s.a.trail.deny(ctx, kind, method, err, callerFrom(ctx))
}

func byOperator(ctx context.Context) string { return "operator " + callerFrom(ctx).String() }

// RegisterAgent registers an agent.
func (s *operatorService) RegisterAgent(ctx context.Context, r *rpcv1.RegisterAgentRequest) (*rpcv1.RegisterAgentResponse, error) {
	agent, err := s.a.registerAgent(ctx, r.GetAgent(), byOperator(ctx))
	if err != nil {
		return nil, s.answer(ctx, v1.EventKind_EVENT_KIND_REGISTRY_CHANGED, rpcv1.OperatorService_RegisterAgent_FullMethodName, err)
	}
	return &rpcv1.RegisterAgentResponse{Agent: agent}, nil
}

// ListAgents lists all records.
func (s *operatorService) ListAgents(context.Context, *rpcv1.ListAgentsRequest) (*rpcv1.ListAgentsResponse, error) {
	return &rpcv1.ListAgentsResponse{Agents: s.a.Agents()}, nil
}

// AdmitWorkload ties a process to an agent.
func (s *operatorService) AdmitWorkload(ctx context.Context, r *rpcv1.AdmitWorkloadRequest) (*rpcv1.AdmitWorkloadResponse, error) {
	exe, uid, err := s.admit(ctx, r)
	if err != nil {
		return nil, s.answer(ctx, v1.EventKind_EVENT_KIND_WORKLOAD_REFUSED, rpcv1.OperatorService_AdmitWorkload_FullMethodName, err)
	}
	return &rpcv1.AdmitWorkloadResponse{ExeSha256: exe[:], Uid: uid}, nil
}

func (s *operatorService) admit(ctx context.Context, r *rpcv1.AdmitWorkloadRequest) ([32]byte, uint32, error) {
	id, err := identity.ParseAgent(r.GetSpiffeId())
	if err != nil {
		return [32]byte{}, 0, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	callers, err := s.a.operator(ctx)
	if err != nil {
		return [32]byte{}, 0, err
	}
	return s.a.admitWorkload(ctx, id, int(r.GetPid()), byOperator(ctx), callers)
}

// IssueGrant signs a grant.
func (s *operatorService) IssueGrant(ctx context.Context, r *rpcv1.IssueGrantRequest) (*rpcv1.IssueGrantResponse, error) {
	out, err := s.a.issueGrant(ctx, r, byOperator(ctx))
	return out, s.answer(ctx, v1.EventKind_EVENT_KIND_GRANT_ISSUED, rpcv1.OperatorService_IssueGrant_FullMethodName, err)
}

// ActivateTable puts a signed table in force.
func (s *operatorService) ActivateTable(ctx context.Context, r *rpcv1.ActivateTableRequest) (*rpcv1.ActivateTableResponse, error) {
	serial, err := s.a.activateTable(ctx, r.GetTable(), byOperator(ctx))
	if err != nil {
		return nil, s.answer(ctx, v1.EventKind_EVENT_KIND_TABLE_REJECTED, rpcv1.OperatorService_ActivateTable_FullMethodName, err)
	}
	return &rpcv1.ActivateTableResponse{Serial: serial}, nil
}

// EditTable edits, signs and activates.
func (s *operatorService) EditTable(ctx context.Context, r *rpcv1.EditTableRequest) (*rpcv1.EditTableResponse, error) {
	serial, err := s.a.editTable(ctx, r.GetAdd(), r.GetRemove(), byOperator(ctx))
	if err != nil {
		return nil, s.answer(ctx, v1.EventKind_EVENT_KIND_TABLE_REJECTED, rpcv1.OperatorService_EditTable_FullMethodName, err)
	}
	return &rpcv1.EditTableResponse{Serial: serial}, nil
}

// Status describes the authority.
func (s *operatorService) Status(context.Context, *rpcv1.StatusRequest) (*rpcv1.StatusResponse, error) {
	return s.a.Status(), nil
}
