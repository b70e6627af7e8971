package memory

import (
	"fmt"
	"slices"
	"strings"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Namespace is a list of 1 to 16 labels. It is never joined into one string, because joined lists collide. The zero value is no
// namespace. Namespaces are immutable values.
type Namespace struct{ labels []string }

// NewNamespace returns the namespace of the labels, unchanged, or refuses them: each has 1 to 128 bytes of A-Z a-z 0-9 . _ ~ @ :
// + - and is neither "." nor "..". The error wraps ErrInvalid.
func NewNamespace(labels ...string) (Namespace, error) {
	if len(labels) == 0 || len(labels) > MaxLabels {
		return Namespace{}, badNamespace(fmt.Sprintf("%d labels, want 1 to %d", len(labels), MaxLabels))
	}
	for i, l := range labels {
		if !validLabel(l) {
			return Namespace{}, badNamespace(fmt.Sprintf("label %d is empty, oversize, dotted or has a byte outside the charset", i))
		}
	}
	return Namespace{labels: slices.Clone(labels)}, nil
}

// NamespaceFromProto is NewNamespace of a path from the wire.
func NamespaceFromProto(p *v1.Path) (Namespace, error) { return NewNamespace(p.GetLabels()...) }

// Labels returns the labels. The caller may change the slice.
func (n Namespace) Labels() []string { return slices.Clone(n.labels) }

// Len returns the number of labels, 0 for the zero value.
func (n Namespace) Len() int { return len(n.labels) }

// IsZero reports whether n is no namespace.
func (n Namespace) IsZero() bool { return len(n.labels) == 0 }

// Equal reports whether both are the same list of labels.
func (n Namespace) Equal(o Namespace) bool { return slices.Equal(n.labels, o.labels) }

// Contains reports whether o is n or lies below it. The zero value contains nothing.
func (n Namespace) Contains(o Namespace) bool {
	return !n.IsZero() && len(o.labels) >= len(n.labels) && slices.Equal(n.labels, o.labels[:len(n.labels)])
}

// Sub returns the namespace below n with further labels. The error wraps ErrInvalid.
func (n Namespace) Sub(labels ...string) (Namespace, error) {
	if n.IsZero() {
		return Namespace{}, badNamespace("nothing is below no namespace")
	}
	return NewNamespace(append(n.Labels(), labels...)...)
}

// Proto returns n for the wire.
func (n Namespace) Proto() *v1.Path { return &v1.Path{Labels: n.Labels()} }

// String returns n for people: quoted labels, never a form that is read back.
func (n Namespace) String() string {
	quoted := make([]string, len(n.labels))
	for i, l := range n.labels {
		quoted[i] = fmt.Sprintf("%q", l)
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

func validLabel(l string) bool {
	if l == "" || len(l) > MaxLabelBytes || l == "." || l == ".." {
		return false
	}
	for i := range len(l) {
		c := l[i]
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("._~@:+-", c) >= 0:
		default:
			return false
		}
	}
	return true
}

func badNamespace(cause string) error {
	return refuse(ErrInvalid, v1.Reason_REASON_MEMORY_BAD_NAMESPACE, cause)
}
