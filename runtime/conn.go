package runtime

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/interceptors"
	"github.com/safeconduct/safeconduct/internal/wirecodec"
	"github.com/safeconduct/safeconduct/policy"
)

// messageLife is how long a message may wait to be accepted; a call may run longer, until its context ends.
const messageLife = 30 * time.Second

// maxShared bounds the context references of one message.
const maxShared = 32

// maxSharedBytes bounds one of them.
const maxSharedBytes = 8 << 10

// streamWindow and connWindow are how much a callee may send before it is read; see the server's.
const (
	streamWindow = 2 << 20
	connWindow   = 4 << 20
)

// ErrClosed is returned for what an agent is asked after its Close.
var ErrClosed = errors.New("the agent is closed")

// Conn calls one other agent. It implements grpc.ClientConnInterface: pass it to any generated client whose methods declare
// (safeconduct.v1.intent). It is safe for concurrent use.
type Conn struct {
	agent  *Agent
	peer   identity.AgentID
	cc     *grpc.ClientConn
	find   *locator
	client rpcv1.ExchangeServiceClient
	// methods caches what the called methods declare.
	methods *interceptors.Methods
	narrow  narrowed
	least   bool
	line    *line
	// options are those of every call to the peer, resource is what methods act on that name nothing else.
	options  []grpc.CallOption
	resource []string
}

var _ grpc.ClientConnInterface = (*Conn)(nil)

// Dial returns the connection to an agent, by its SPIFFE ID. It connects at the first call, to the address that the authority
// knows at that time; the peer must prove exactly this identity.
func (a *Agent) Dial(peer string) (*Conn, error) {
	id, err := identity.ParseAgent(peer)
	if err != nil {
		return nil, fmt.Errorf("runtime: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.conns == nil {
		return nil, fmt.Errorf("runtime: dialing %s: %w", id, ErrClosed)
	}
	if c := a.conns[id]; c != nil {
		return c, nil
	}
	find, over := &locator{trust: a.trust, id: id}, new(line)
	cc, err := grpc.NewClient("safeconduct:///"+id.Name(),
		grpc.WithResolvers(find),
		grpc.WithTransportCredentials(over.credentials(credentials.NewTLS(identity.ClientTLS(a.src, id)))),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff: backoff.Config{BaseDelay: minRetry, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxRetry}, MinConnectTimeout: maxRetry,
		}),
		grpc.WithStaticStreamWindowSize(streamWindow),
		grpc.WithStaticConnWindowSize(connWindow),
		grpc.WithDisableServiceConfig())
	if err != nil {
		return nil, fmt.Errorf("runtime: dialing %s: %w", id, err)
	}
	c := &Conn{
		agent: a, peer: id, cc: cc, find: find, client: rpcv1.NewExchangeServiceClient(cc), methods: new(interceptors.Methods), line: over,
		options: []grpc.CallOption{
			grpc.StaticMethod(), grpc.ForceCodecV2(wirecodec.New()), grpc.MaxCallRecvMsgSize(interceptors.MaxEnvelope), grpc.MaxCallSendMsgSize(interceptors.MaxEnvelope),
		},
		resource: interceptors.DefaultResource(id),
	}
	a.conns[id] = c
	return c, nil
}

// Peer returns the identity of the other end.
func (c *Conn) Peer() identity.AgentID { return c.peer }

func (c *Conn) close() error { return c.cc.Close() }

// Invoke implements grpc.ClientConnInterface: one Envelope there and one back. Errors carry a gRPC status; a refusal by the
// enforcement core of either side is a [*Refusal]. The chain goes to the callee once on each connection and by reference after that;
// a callee that has forgotten it gets the same message once more with the whole chain, which a grpc.OnFinish option sees as two calls.
func (c *Conn) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	o, err := callOptions(opts)
	if err != nil {
		return err
	}
	m, err := c.lookup(method)
	if err != nil {
		return err
	}
	req, ok := args.(proto.Message)
	into, ok2 := reply.(proto.Message)
	if !ok || !ok2 {
		return status.Errorf(codes.Internal, "%s: %T and %T are no messages", method, args, reply)
	}
	return c.call(ctx, m, req, into, o)
}

func (c *Conn) call(ctx context.Context, m *interceptors.Method, req, reply proto.Message, o *options) (err error) {
	if o.receipt != nil && !m.Intent.GetSignedReceipt() {
		return status.Errorf(codes.InvalidArgument, "%s declares no signed_receipt", m.Procedure)
	}
	msg := c.agent.messages.get()
	if !m.Intent.GetSignedReceipt() && !m.Intent.GetRequireProof() && !o.proof { // what is signed is kept for the record
		defer c.agent.messages.put(msg)
	}
	if err := c.carry(ctx, m, req, o, msg); err != nil {
		return err
	}
	out, err := c.open(ctx, msg, m)
	if err != nil {
		return err
	}
	var over *peer.Peer
	if m.Intent.GetSignedReceipt() {
		over = o.watch()
	}
	res, err := c.transmit(ctx, msg, o)
	if err == nil {
		err = c.checkReceipt(m, msg, res, over, out, o)
	}
	var receipt *v1.AuditReceipt
	if res != nil {
		receipt = soundReceipt(res.GetAudit())
	}
	if cerr := out.Close(err, receipt, len(res.GetPayload())); cerr != nil && err == nil {
		err = refusalOf(cerr)
	}
	if err != nil {
		c.taintError(msg.parent, err)
		return err
	}
	return c.accept(msg.parent, res, reply, o)
}

// soundReceipt copies what a callee says about its record, if it has the right shape: it goes into the caller's own log.
func soundReceipt(r *v1.AuditReceipt) *v1.AuditReceipt {
	if len(r.GetLogId()) != 16 || len(r.GetBootId()) != 16 || len(r.GetLeafHash()) != 32 {
		return nil
	}
	return &v1.AuditReceipt{LogId: r.GetLogId(), Seq: r.GetSeq(), LeafHash: r.GetLeafHash(), BootId: r.GetBootId()}
}

// soundRefs reports whether the references of a reply keep their bounds.
func soundRefs(refs []*v1.ContextRef) bool {
	if len(refs) > maxShared {
		return false
	}
	for _, r := range refs {
		if _, err := policy.LabelFromProto(r.GetLabel()); err != nil || proto.Size(r) > maxSharedBytes {
			return false
		}
	}
	return true
}

// taintError joins the words of a failed call, which are the callee's own, to the caller's conversation. A refusal has no words.
func (c *Conn) taintError(parent *interceptors.Interaction, err error) {
	var r *Refusal
	if parent != nil && parent.Conversation() != nil && !errors.As(err, &r) {
		parent.Conversation().Taint(policy.OwnWords(c.limit(), c.peer.String()))
	}
}

// carry makes msg the message that carries req.
func (c *Conn) carry(ctx context.Context, m *interceptors.Method, req proto.Message, o *options, msg *message) error {
	payload, err := proto.MarshalOptions{}.MarshalAppend(msg.payload, req)
	if err != nil {
		return status.Errorf(codes.Internal, "marshalling the request: %v", err)
	}
	if len(payload) > interceptors.MaxPayload {
		return status.Errorf(codes.ResourceExhausted, "request of %d bytes, at most %d; share it by context reference", len(payload), interceptors.MaxPayload)
	}
	msg.payload = payload
	if err := c.envelope(ctx, m, req, o, msg); err != nil {
		return err
	}
	env := msg.env
	env.Kind, env.HalfClose, env.Payload, env.PayloadType = v1.FrameKind_FRAME_KIND_OPEN, true, payload, string(req.ProtoReflect().Descriptor().FullName())
	msg.sum = sha256.Sum256(payload)
	env.Intent.ArgumentsDigest = msg.sum[:]
	if err := c.prove(m, msg, o); err != nil {
		return err
	}
	if n := msg.size(); n > interceptors.MaxEnvelope {
		return status.Errorf(codes.ResourceExhausted, "envelope of %d bytes, at most %d", n, interceptors.MaxEnvelope)
	}
	return nil
}

// open records the intent to send msg. A caller that gives up meanwhile still gets a pair of records: the wait for the disk is not
// cut short, the call is.
func (c *Conn) open(ctx context.Context, msg *message, m *interceptors.Method) (*interceptors.Outgoing, error) {
	out, err := c.agent.enforcer.OpenOutgoing(context.WithoutCancel(ctx), c.peer, msg.env, leafOf(msg.parent, m), m)
	return out, refusalOf(err)
}

// deliver sends msg and returns the RESULT, which is memory of msg, or an error as callers see it.
func (c *Conn) deliver(ctx context.Context, msg *message, o *options) (*v1.Envelope, error) {
	res := &msg.reply.Envelope
	err := c.cc.Invoke(ctx, rpcv1.ExchangeService_Deliver_FullMethodName, msg.env, &msg.reply, c.with(o.grpc)...)
	switch {
	case err != nil:
		return nil, refusalOf(err)
	case !interceptors.ValidText(res):
		return nil, &remoteStatus{status.Newf(codes.Internal, "%s answered with a string that is not UTF-8", c.peer)}
	case res.GetKind() != v1.FrameKind_FRAME_KIND_RESULT:
		return nil, &remoteStatus{status.Newf(codes.Internal, "%s answered with frame %s", c.peer, res.GetKind())}
	}
	return res, nil
}

// locate asks where the peer serves when the connection has ended since the last call.
func (c *Conn) locate(ctx context.Context) {
	if c.cc.GetState() == connectivity.Idle {
		c.find.refresh(ctx)
	}
}

// accept hands the reply over, after its label has joined the caller's conversation. An opaque reply is not read and taints nothing.
func (c *Conn) accept(parent *interceptors.Interaction, res *v1.Envelope, reply proto.Message, o *options) error {
	if !soundRefs(res.GetContext()) {
		return status.Errorf(codes.Internal, "%s answered with references over a bound", c.peer)
	}
	if o.refs != nil {
		*o.refs = res.GetContext()
	}
	if o.opaque {
		return nil
	}
	if parent != nil && parent.Conversation() != nil {
		parent.Conversation().Taint(c.label(res))
	}
	for _, into := range []*metadata.MD{o.header, o.trailer} {
		if into != nil {
			*into = fromPairs(res.GetMetadata())
		}
	}
	if want := string(reply.ProtoReflect().Descriptor().FullName()); res.GetPayloadType() != want {
		return status.Errorf(codes.Internal, "%s answered with a %s, want %s", c.peer, res.GetPayloadType(), want)
	}
	if err := proto.Unmarshal(res.GetPayload(), reply); err != nil {
		return status.Errorf(codes.Internal, "%s answered with bytes that do not decode", c.peer)
	}
	return nil
}

// label is what a message from the peer says of itself, capped by what the peer may claim.
func (c *Conn) label(res *v1.Envelope) policy.Label {
	l, err := policy.LabelFromProto(res.GetControl())
	if err != nil {
		return policy.Label{}
	}
	if c.peer.IsService() {
		return l // a service of the trust domain passes labels on
	}
	return l.WithIntegrityCap(c.limit())
}

// limit is the best that the peer's words can be.
func (c *Conn) limit() v1.Integrity {
	if rec := c.agent.trust.Agent(c.peer); rec != nil {
		return v1.Integrity(rec.IntegrityCap)
	}
	return v1.Integrity_INTEGRITY_UNTRUSTED
}

// envelope fills what every call carries: intent, chain, labels, conversation, causation, deadline, trace.
func (c *Conn) envelope(ctx context.Context, m *interceptors.Method, req proto.Message, o *options, msg *message) error {
	now := c.agent.cfg.Now()
	_, _ = rand.Read(msg.id[:])
	env := msg.env
	env.Id, env.Method, env.Tenant, env.Recipient, env.Context = msg.id[:], m.Procedure, c.agent.id.Tenant().Name(), c.peer.String(), o.attach
	env.Intent = &msg.intent
	env.Intent.Action = m.Intent.GetAction()
	env.DeadlineUnixMs = now.Add(messageLife).UnixMilli()
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end)
		if left <= 0 {
			return status.FromContextError(context.DeadlineExceeded).Err()
		}
		env.DeadlineUnixMs = now.Add(min(left, messageLife)).UnixMilli()
		env.TimeoutMs = uint32(min(left+time.Millisecond, 24*time.Hour).Milliseconds()) //nolint:gosec // G115: at most 24 h.
	}
	if len(o.attach) > maxShared {
		return status.Errorf(codes.InvalidArgument, "%d context references, at most %d", len(o.attach), maxShared)
	}
	env.Data = msg.labelled(o.attach)
	if md, ok := metadata.FromOutgoingContext(ctx); ok {
		pairs, fits := toPairs(md)
		if !fits {
			return status.Errorf(codes.InvalidArgument, "outgoing metadata does not fit: at most %d pairs and %d bytes, no reserved keys", maxPairs, maxPairBytes)
		}
		env.Metadata = pairs
	}
	parent, ok := interceptors.From(ctx)
	msg.parent = parent
	if m.Intent.GetOpen() {
		return nil // no authority goes with it; what comes back taints the caller all the same
	}
	if !ok || parent.Leaf() == nil || parent.Conversation() == nil {
		return noAuthority{}
	}
	resource, err := m.ResourceOf(req, c.resource)
	if err != nil && req != nil { // a stream has no request yet; the callee derives it from the first message
		return status.Errorf(codes.InvalidArgument, "resource of the call: %v", err)
	}
	leaf := c.agent.renewals.current(ctx, c.agent, parent.Leaf())
	narrow, err := c.narrowing(leaf, m, req, resource)
	if err != nil {
		return err
	}
	hop, err := c.agent.hops.extend(c.agent, leaf, c.peer, narrow)
	if err != nil {
		return refusalOf(err)
	}
	env.Chain, env.Intent.Resource, env.Intent.Purpose = hop.chain, resource, parent.Purpose()
	env.Control = parent.Conversation().Control()
	env.Conversation = parent.Conversation().ID()
	if cause := parent.Envelope(); cause != nil {
		env.Causation, env.Trace = cause.GetId(), cause.GetTrace()
	}
	msg.hop = hop
	return nil
}

// lookup reads what a method declares from the descriptors linked into this binary.
func (c *Conn) lookup(method string) (*interceptors.Method, error) {
	if m := c.methods.Lookup(method); m != nil {
		return m, nil
	}
	service, _, ok := cutMethod(method)
	if !ok {
		return nil, status.Errorf(codes.Unimplemented, "malformed method %q", method)
	}
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	sd, isService := d.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil, status.Errorf(codes.Unimplemented, "no descriptor of %s in this binary", service)
	}
	if err := c.methods.AddService(sd); err != nil && c.methods.Lookup(method) == nil {
		return nil, status.Errorf(codes.Unimplemented, "%v", err)
	}
	if m := c.methods.Lookup(method); m != nil {
		return m, nil
	}
	return nil, status.Errorf(codes.Unimplemented, "no method %q", method)
}

func cutMethod(full string) (service, method string, ok bool) {
	if full == "" || full[0] != '/' {
		return "", "", false
	}
	for i := len(full) - 1; i > 0; i-- {
		if full[i] == '/' {
			return full[1:i], full[i+1:], true
		}
	}
	return "", "", false
}
