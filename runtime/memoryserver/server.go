package memoryserver

import (
	"context"
	"errors"
	"fmt"
	"sync"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/policy"
	"github.com/safeconduct/safeconduct/runtime"
)

// Register serves store on a: MemoryService and ContextService.
func Register(a *runtime.Agent, store *memory.Store) {
	s := &server{store: store, tenants: map[identity.Tenant]bool{}}
	rpcv1.RegisterMemoryServiceServer(a, s)
	rpcv1.RegisterContextServiceServer(a, s)
}

type server struct {
	rpcv1.UnimplementedMemoryServiceServer
	rpcv1.UnimplementedContextServiceServer
	store   *memory.Store
	mu      sync.Mutex
	tenants map[identity.Tenant]bool
}

// open is the one way from a call to content.
func (s *server) open(ctx context.Context, path *v1.Path) (*memory.View, error) {
	permit := runtime.Permit(ctx)
	if err := s.room(ctx, permit); err != nil {
		return nil, denial(err)
	}
	ns, err := memory.NamespaceFromProto(path)
	if err != nil {
		return nil, denial(err)
	}
	view, err := s.store.Open(permit, ns)
	return view, denial(err)
}

// room makes the bucket of a tenant at its first verified call.
func (s *server) room(ctx context.Context, p policy.Permit) error {
	t := p.Tenant()
	if t.IsZero() {
		return nil // the store refuses the permit
	}
	s.mu.Lock()
	known := s.tenants[t]
	s.mu.Unlock()
	if known {
		return nil
	}
	if err := s.store.AddTenant(ctx, t); err != nil {
		return err
	}
	s.mu.Lock()
	s.tenants[t] = true
	s.mu.Unlock()
	return nil
}

// Write implements MemoryServiceServer.
func (s *server) Write(ctx context.Context, req *rpcv1.WriteRequest) (*rpcv1.WriteResponse, error) {
	view, err := s.open(ctx, req.GetNs())
	if err != nil {
		return nil, err
	}
	ops := make([]memory.Op, len(req.GetOps()))
	for i, op := range req.GetOps() {
		if ops[i], err = opOf(op); err != nil {
			return nil, denial(err)
		}
	}
	rev, entries, err := view.Write(ctx, ops...)
	if err != nil {
		return nil, denial(err)
	}
	resp := &rpcv1.WriteResponse{Revision: uint64(rev)}
	for _, e := range entries {
		e.Value = nil
		resp.Entries = append(resp.Entries, e.Proto())
	}
	return resp, nil
}

// Get implements MemoryServiceServer.
func (s *server) Get(ctx context.Context, req *rpcv1.GetRequest) (*rpcv1.GetResponse, error) {
	view, err := s.open(ctx, req.GetNs())
	if err != nil {
		return nil, err
	}
	refs := make([]memory.Ref, len(req.GetRefs()))
	for i, r := range req.GetRefs() {
		if refs[i], err = memory.RefFromProto(r); err != nil {
			return nil, denial(err)
		}
	}
	entries, rev, err := view.ReadWith(ctx, memory.ReadOptions{HeaderOnly: req.GetHeaderOnly(), MinIntegrity: req.GetMinIntegrity()}, refs...)
	if err != nil {
		return nil, denial(err)
	}
	resp := &rpcv1.GetResponse{Revision: uint64(rev)}
	for _, e := range entries {
		taint(ctx, e)
		resp.Entries = append(resp.Entries, e.Proto())
	}
	return resp, nil
}

// List implements MemoryServiceServer.
func (s *server) List(ctx context.Context, req *rpcv1.ListRequest) (*rpcv1.ListResponse, error) {
	view, err := s.open(ctx, req.GetNs())
	if err != nil {
		return nil, err
	}
	page, err := view.List(ctx, memory.ListOptions{
		Subtree: req.GetSubtree(), KeyPrefix: req.GetKeyPrefix(), PageSize: int(req.GetPageSize()),
		PageToken: req.GetPageToken(), MinIntegrity: req.GetMinIntegrity(),
	})
	if err != nil {
		return nil, denial(err)
	}
	resp := &rpcv1.ListResponse{NextPageToken: page.NextPageToken, Revision: uint64(page.Rev)}
	for _, e := range page.Headers {
		taint(ctx, e)
		resp.Headers = append(resp.Headers, e.Proto())
	}
	return resp, nil
}

// Resolve implements ContextServiceServer.
func (s *server) Resolve(ctx context.Context, req *rpcv1.ResolveRequest) (*rpcv1.ResolveResponse, error) {
	view, err := s.open(ctx, req.GetRef().GetRef().GetNs())
	if err != nil {
		return nil, err
	}
	if req.GetOpaque() {
		if err := view.Verify(ctx, req.GetRef()); err != nil {
			return nil, denial(err)
		}
		return &rpcv1.ResolveResponse{}, nil
	}
	e, err := view.Resolve(ctx, req.GetRef())
	if err != nil {
		return nil, denial(err)
	}
	taint(ctx, e)
	return &rpcv1.ResolveResponse{Entry: e.Proto()}, nil
}

// taint makes the reply carry the label of what it contains.
func taint(ctx context.Context, e memory.Entry) {
	if !e.IsZero() {
		runtime.Taint(ctx, e.Label)
	}
}

func opOf(op *rpcv1.Op) (memory.Op, error) {
	only, err := preconditionOf(op.GetOnlyIf())
	if err != nil {
		return nil, err
	}
	switch k := op.GetKind().(type) {
	case *rpcv1.Op_Put:
		ref, err := memory.RefFromProto(k.Put.GetRef())
		if err != nil {
			return nil, err
		}
		put := memory.Put{
			Ref: ref, Value: k.Put.GetValue(), MediaType: k.Put.GetMediaType(), DerivedFrom: k.Put.GetDerivedFrom(), OnlyIf: only,
		}
		for _, m := range k.Put.GetMeta() {
			put.Meta = append(put.Meta, memory.MetaPair{Key: m.GetKey(), Value: m.GetValue()})
		}
		if k.Put.GetRaise() != nil {
			raise, err := policy.LabelFromProto(k.Put.GetRaise())
			if err != nil {
				return nil, interceptors.Refuse(v1.Reason_REASON_LABEL_UNKNOWN, err)
			}
			put.Raise = &raise
		}
		return put, nil
	case *rpcv1.Op_Delete:
		ref, err := memory.RefFromProto(k.Delete.GetRef())
		return memory.Delete{Ref: ref, OnlyIf: only}, err
	}
	return nil, interceptors.Refuse(v1.Reason_REASON_MALFORMED, errors.New("an operation is neither put nor delete"))
}

func preconditionOf(p *rpcv1.Precondition) (memory.Precondition, error) {
	switch k := p.GetKind().(type) {
	case nil:
		if p != nil {
			return memory.Precondition{}, interceptors.Refuse(v1.Reason_REASON_MALFORMED, errors.New("an empty precondition"))
		}
		return memory.Precondition{}, nil
	case *rpcv1.Precondition_VersionIs:
		return memory.VersionIs(k.VersionIs), nil
	case *rpcv1.Precondition_MustNotExist:
		if k.MustNotExist {
			return memory.MustNotExist(), nil
		}
	case *rpcv1.Precondition_CommitmentIs:
		if len(k.CommitmentIs) == 32 {
			return memory.CommitmentIs([32]byte(k.CommitmentIs)), nil
		}
	}
	return memory.Precondition{}, interceptors.Refuse(v1.Reason_REASON_MALFORMED, errors.New("malformed precondition"))
}

// denial maps an error of the store onto a reason; its text never leaves.
func denial(err error) error {
	if err == nil {
		return nil
	}
	var d *interceptors.Denial
	if errors.As(err, &d) {
		return err
	}
	var r *memory.Refusal
	cause := err
	if errors.As(err, &r) && r.Cause != "" {
		cause = fmt.Errorf("%w: %s", r.Err, r.Cause)
	}
	switch reason := memory.ReasonOf(err); reason {
	case 0:
	case v1.Reason_REASON_CONFIDENTIALITY_TOO_HIGH:
		// An entry that its label keeps from the caller looks like one that is not there; the access record has the reason.
		return interceptors.Refuse(v1.Reason_REASON_MEMORY_ABSENT, cause)
	default:
		return interceptors.Refuse(reason, cause)
	}
	switch {
	case errors.Is(err, memory.ErrNotFound):
		return interceptors.Refuse(v1.Reason_REASON_NOT_FOUND, cause)
	case errors.Is(err, memory.ErrConflict):
		return interceptors.Refuse(v1.Reason_REASON_CONFLICT, cause)
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	}
	return interceptors.Refuse(v1.Reason_REASON_INTERNAL, cause)
}
