package audit_test

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// The encoder takes any bytes for a text, every reader refuses what is not UTF-8: a record with such a text, in whatever field of
// whatever part, must not be written.
func TestEveryTextIsChecked(t *testing.T) {
	const bad = "a\xffb"
	l := openLog(t, t.TempDir(), audit.Config{})
	checked := 0
	eachText((&v1.AuditEvent{}).ProtoReflect().Descriptor(), nil, func(path []protoreflect.FieldDescriptor) {
		name := pathName(path)
		if name == "cause" || name == "detail" {
			return // free texts are made fit instead
		}
		checked++
		for text, want := range map[string]error{bad: audit.ErrInvalid, "fine": nil} {
			ev := &v1.AuditEvent{}
			set(ev.ProtoReflect(), path, text)
			ev.Kind = v1.EventKind_EVENT_KIND_CALL
			if _, err := l.Append(t.Context(), audit.Buffered, ev); !errors.Is(err, want) {
				t.Errorf("%s = %q: %v, want %v", name, text, err, want)
			}
			if _, err := proto.Marshal(ev); (err == nil) != (want == nil) {
				t.Errorf("%s = %q: the standard encoder says %v", name, text, err)
			}
		}
	})
	if checked < 40 {
		t.Errorf("only %d texts", checked)
	}
}

// eachText calls visit with the way to each string field.
func eachText(md protoreflect.MessageDescriptor, above []protoreflect.FieldDescriptor, visit func([]protoreflect.FieldDescriptor)) {
	for i := range md.Fields().Len() {
		fd := md.Fields().Get(i)
		path := append(above[:len(above):len(above)], fd)
		switch {
		case fd.Kind() == protoreflect.StringKind:
			visit(path)
		case fd.Message() != nil:
			eachText(fd.Message(), path, visit)
		}
	}
}

func set(m protoreflect.Message, path []protoreflect.FieldDescriptor, text string) {
	for i, fd := range path {
		switch last := i == len(path)-1; {
		case last && fd.IsList():
			m.Mutable(fd).List().Append(protoreflect.ValueOfString(text))
		case last:
			m.Set(fd, protoreflect.ValueOfString(text))
		case fd.IsList():
			m = m.Mutable(fd).List().AppendMutable().Message()
		default:
			m = m.Mutable(fd).Message()
		}
	}
}

func pathName(path []protoreflect.FieldDescriptor) string {
	names := make([]string, len(path))
	for i, fd := range path {
		names[i] = string(fd.Name())
	}
	return strings.Join(names, ".")
}
