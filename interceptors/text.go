package interceptors

import (
	"unicode/utf8"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// ValidText reports whether every string of an Envelope is UTF-8. The codec of the hot path does not look, while records, signed
// payloads and every other protobuf refuse strings that are not: whoever receives an Envelope asks here before anything else.
func ValidText(e *v1.Envelope) bool {
	in, hello := e.GetIntent(), e.GetHello()
	if !valid(e.GetMethod(), e.GetPayloadType(), in.GetAction(), in.GetPurpose(), e.GetTenant(), e.GetIdempotencyKey(), e.GetRecipient(),
		e.GetTrace().GetState(), hello.GetSoftware()) || !valid(in.GetResource()...) || !valid(hello.GetFeatures()...) || !validLabel(e.GetControl()) {
		return false
	}
	for _, c := range e.GetContext() {
		if !valid(c.GetStore(), c.GetTenant(), c.GetMediaType()) || !valid(c.GetRef().GetNs().GetLabels()...) || !validLabel(c.GetLabel()) {
			return false
		}
	}
	for _, d := range e.GetData() {
		if !valid(d.GetField()) || !validLabel(d.GetLabel()) {
			return false
		}
	}
	for _, p := range e.GetMetadata() {
		if !valid(p.GetKey()) {
			return false
		}
	}
	return true
}

func validLabel(l *v1.Label) bool {
	return valid(l.GetReaders()...) && valid(l.GetTags()...) && valid(l.GetSources()...)
}

func valid(text ...string) bool {
	for _, s := range text {
		if !utf8.ValidString(s) {
			return false
		}
	}
	return true
}
