package interceptors

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/policy"
)

// ErrMethod is returned for a method that may not be served; the process then does not start.
var ErrMethod = errors.New("method may not be served")

// Bounds on what a method declares.
const (
	maxScopes = 8
	maxFacts  = 16
)

// Method is what a procedure means, read from its descriptor when the process starts and never from the wire.
type Method struct {
	Procedure    string // /pkg.Service/Method
	Intent       *v1.MethodIntent
	Input        protoreflect.MessageDescriptor // nil for a free-form intent of any type
	ClientStream bool
	ServerStream bool

	resource []protoreflect.FieldDescriptor
	facts    []factPath
}

type factPath struct {
	key  string
	path []protoreflect.FieldDescriptor
}

// Methods is the method table of one endpoint. Add during start; look-ups are safe concurrently with them.
type Methods struct {
	m atomic.Pointer[map[string]*Method]
}

// AddService adds every method of a service, all of them or none. It returns an error that wraps ErrMethod, naming the method, when
// one lacks the (safeconduct.v1.intent) option, declares something malformed, or something that this version refuses to promise.
func (ms *Methods) AddService(sd protoreflect.ServiceDescriptor) error {
	methods := make([]*Method, 0, sd.Methods().Len())
	for i := range sd.Methods().Len() {
		md := sd.Methods().Get(i)
		procedure := fmt.Sprintf("/%s/%s", sd.FullName(), md.Name())
		intent, ok := proto.GetExtension(md.Options(), v1.E_Intent).(*v1.MethodIntent)
		if !ok || !proto.HasExtension(md.Options(), v1.E_Intent) {
			return fmt.Errorf("%w: %s has no (safeconduct.v1.intent) option", ErrMethod, procedure)
		}
		methods = append(methods, &Method{
			Procedure: procedure, Intent: intent, Input: md.Input(),
			ClientStream: md.IsStreamingClient(), ServerStream: md.IsStreamingServer(),
		})
	}
	return ms.Add(methods...)
}

// Add adds methods, all of them or none: a concurrent Lookup never finds a part. Errors wrap ErrMethod.
func (ms *Methods) Add(methods ...*Method) error {
	for _, m := range methods {
		if err := m.compile(); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrMethod, m.Procedure, err)
		}
	}
	for {
		old := ms.m.Load()
		next := make(map[string]*Method, len(methods))
		if old != nil {
			maps.Copy(next, *old)
		}
		for _, m := range methods {
			if next[m.Procedure] != nil {
				return fmt.Errorf("%w: %s is registered twice", ErrMethod, m.Procedure)
			}
			next[m.Procedure] = m
		}
		if ms.m.CompareAndSwap(old, &next) {
			return nil
		}
	}
}

// Lookup returns the method of a procedure, or nil.
func (ms *Methods) Lookup(procedure string) *Method {
	if m := ms.m.Load(); m != nil {
		return (*m)[procedure]
	}
	return nil
}

// All returns every method, in no order.
func (ms *Methods) All() []*Method {
	var out []*Method
	if m := ms.m.Load(); m != nil {
		for _, v := range *m {
			out = append(out, v)
		}
	}
	return out
}

func (m *Method) compile() error {
	in := m.Intent
	if !strings.HasPrefix(m.Procedure, "/") || len(m.Procedure) > maxMethod {
		return errors.New("procedure is not /pkg.Service/Method of at most 256 bytes")
	}
	if in.GetOpen() {
		if in.GetAction() != "" {
			return errors.New("an open method declares no action")
		}
		if m.promisesProof() {
			return errors.New("an open method has no chain for a proof or a receipt")
		}
		return nil
	}
	switch {
	case !policy.ValidAction(in.GetAction()):
		return fmt.Errorf("action %q is not dotted lower case of at most 64 bytes", in.GetAction())
	case v1.Integrity_name[int32(in.GetMinIntegrity())] == "" || v1.AuditClass_name[int32(in.GetAudit())] == "" ||
		v1.Confidentiality_name[int32(in.GetMaxConfidentiality())] == "":
		return errors.New("unknown enum value in the option")
	case in.GetIdempotency() == v1.Idempotency_IDEMPOTENCY_KEYED:
		return errors.New("KEYED results are not kept by this version; declare no idempotency")
	case in.GetMaxDepth() > policy.MaxDepth:
		return fmt.Errorf("max_depth %d is above %d", in.GetMaxDepth(), policy.MaxDepth)
	case m.promisesProof() && (m.ClientStream || m.ServerStream):
		return errors.New("require_proof and signed_receipt are for unary methods: a stream has no place for either")
	case len(in.GetScopes()) > maxScopes || len(in.GetFacts()) > maxFacts:
		return errors.New("more than 8 scopes or 16 facts")
	case slices.ContainsFunc(in.GetScopes(), func(s string) bool { return !policy.ValidAction(s) }):
		return errors.New("a scope is not dotted lower case of at most 64 bytes")
	}
	if name := ruledField(m.Input, map[protoreflect.FullName]bool{}); name != "" {
		return fmt.Errorf("field %s declares a rule, and (safeconduct.v1.field) is not held by this version", name)
	}
	if in.GetResourceField() != "" {
		path, err := fieldPath(m.Input, in.GetResourceField())
		if err != nil {
			return fmt.Errorf("resource_field: %w", err)
		}
		if last := path[len(path)-1]; last.Kind() != protoreflect.StringKind {
			return fmt.Errorf("resource_field %q is not a string", in.GetResourceField())
		}
		m.resource = path
	}
	for _, f := range in.GetFacts() {
		path, err := fieldPath(m.Input, f.GetField())
		if err != nil {
			return fmt.Errorf("fact %q: %w", f.GetKey(), err)
		}
		if last := path[len(path)-1]; last.IsList() || factKind(last.Kind()) == 0 {
			return fmt.Errorf("fact %q is no string, integer or bool", f.GetKey())
		}
		m.facts = append(m.facts, factPath{f.GetKey(), path})
	}
	return nil
}

func (m *Method) promisesProof() bool {
	return m.Intent.GetRequireProof() || m.Intent.GetSignedReceipt()
}

// ruledField returns the first field of a request, at any depth, that declares a FieldRule: a rule that would be ignored is refused.
func ruledField(md protoreflect.MessageDescriptor, seen map[protoreflect.FullName]bool) protoreflect.FullName {
	if md == nil || seen[md.FullName()] {
		return ""
	}
	seen[md.FullName()] = true
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		if proto.HasExtension(fd.Options(), v1.E_Field) {
			return fd.FullName()
		}
		if name := ruledField(fd.Message(), seen); name != "" {
			return name
		}
	}
	return ""
}

func factKind(k protoreflect.Kind) protoreflect.Kind {
	switch k {
	case protoreflect.StringKind, protoreflect.BoolKind:
		return k
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind,
		protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.Int64Kind
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.Uint32Kind
	default:
		return 0
	}
}

func fieldPath(md protoreflect.MessageDescriptor, path string) ([]protoreflect.FieldDescriptor, error) {
	var out []protoreflect.FieldDescriptor
	for name := range strings.SplitSeq(path, ".") {
		if md == nil {
			return nil, fmt.Errorf("%q leads into no message", path)
		}
		fd := md.Fields().ByName(protoreflect.Name(name))
		if fd == nil || fd.IsMap() {
			return nil, fmt.Errorf("%s has no field %q", md.FullName(), name)
		}
		if len(out) > 0 && out[len(out)-1].IsList() {
			return nil, fmt.Errorf("%q passes through a repeated field", path)
		}
		out, md = append(out, fd), fd.Message()
	}
	return out, nil
}

// NewInput returns an empty request of the method, nil where its type is not known.
func (m *Method) NewInput() proto.Message {
	if m == nil || m.Input == nil {
		return nil
	}
	if t, err := protoregistry.GlobalTypes.FindMessageByName(m.Input.FullName()); err == nil {
		return t.New().Interface()
	}
	return dynamicpb.NewMessage(m.Input)
}

// audit returns the method's audit class; unspecified is the strictest.
func (m *Method) audit() v1.AuditClass {
	if m == nil || m.Intent.GetAudit() == v1.AuditClass_AUDIT_CLASS_UNSPECIFIED {
		return v1.AuditClass_AUDIT_CLASS_DURABLE_BEFORE_EFFECT
	}
	return m.Intent.GetAudit()
}

// HasResource reports whether the resource of a call is declared to be a field of its request.
func (m *Method) HasResource() bool { return len(m.resource) > 0 }

// ResourceOf returns the resource that a call of m with this request acts on: the declared request field, or fallback.
func (m *Method) ResourceOf(req proto.Message, fallback []string) ([]string, error) {
	if len(m.resource) == 0 {
		return fallback, nil
	}
	v, fd, err := descend(req, m.resource)
	if err != nil {
		return nil, err
	}
	if !fd.IsList() {
		return []string{v.String()}, nil
	}
	list := v.List()
	if list.Len() > maxResource {
		return nil, fmt.Errorf("resource of %d segments", list.Len())
	}
	out := make([]string, list.Len())
	for i := range out {
		out[i] = list.Get(i).String()
	}
	return out, nil
}

// factsOf returns the declared facts that the request carries, typed for constraints.
func (m *Method) factsOf(req proto.Message) ([]delegation.Fact, error) {
	if len(m.facts) == 0 {
		return nil, nil
	}
	out := make([]delegation.Fact, 0, len(m.facts))
	for _, f := range m.facts {
		v, fd, err := descend(req, f.path)
		if err != nil {
			return nil, err
		}
		val := &v1.Value{}
		switch factKind(fd.Kind()) {
		case protoreflect.StringKind:
			val.Kind = &v1.Value_Text{Text: v.String()}
		case protoreflect.BoolKind:
			val.Kind = &v1.Value_Flag{Flag: v.Bool()}
		case protoreflect.Uint32Kind:
			val.Kind = &v1.Value_Number{Number: int64(v.Uint())} //nolint:gosec // G115: a 32-bit value.
		default:
			val.Kind = &v1.Value_Number{Number: v.Int()}
		}
		out = append(out, delegation.Fact{Key: f.key, Value: val})
	}
	return out, nil
}

func descend(req proto.Message, path []protoreflect.FieldDescriptor) (protoreflect.Value, protoreflect.FieldDescriptor, error) {
	if req == nil {
		return protoreflect.Value{}, nil, errors.New("no request")
	}
	m := req.ProtoReflect()
	for i, fd := range path {
		if m.Descriptor() != fd.ContainingMessage() {
			return protoreflect.Value{}, nil, fmt.Errorf("request is a %s", m.Descriptor().FullName())
		}
		v := m.Get(fd)
		if i == len(path)-1 {
			return v, fd, nil
		}
		m = v.Message()
	}
	return protoreflect.Value{}, nil, errors.New("empty path")
}
