package audit

import (
	"unicode/utf8"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// validText says whether every text in e is UTF-8. The encoder does not look, and a record with other bytes could be written but
// never read again.
func validText(e *Event) bool {
	if !validStrings(e.TaskId, e.Tenant, e.PeerTenant, e.Action, e.Method, e.Purpose, e.Transport, e.Cause, e.Detail) ||
		!validStrings(e.Resource...) || !validStrings(e.Policies...) {
		return false
	}
	if !validParty(e.Actor) || !validParty(e.Peer) || !validLabel(e.ControlClaimed) || !validLabel(e.ControlEffective) {
		return false
	}
	if o := e.Origin; o != nil && !validStrings(o.Subject, o.Issuer) {
		return false
	}
	for _, l := range e.Chain {
		if !validStrings(l.GetDelegator(), l.GetDelegate()) || !validCapabilities(l.GetCapabilities()) {
			return false
		}
	}
	for _, t := range e.Touched {
		if !validStrings(t.GetNs().GetLabels()...) || !validLabel(t.GetLabel()) {
			return false
		}
	}
	in := e.DecisionInput
	return in == nil || (validStrings(in.Principal, in.PrincipalClass, in.PrincipalState, in.Action, in.Callee, in.Tenant, in.Origin, in.Purpose) &&
		validStrings(in.Resource...) && validCapabilities(in.Capabilities) && validLabel(in.Control))
}

func validStrings(list ...string) bool {
	for _, s := range list {
		if !ascii(s) && !utf8.ValidString(s) {
			return false
		}
	}
	return true
}

// ascii answers for nearly every text that records hold, at a fraction of what decoding costs; false says nothing.
func ascii(s string) bool {
	const high = 0x8080808080808080
	n := len(s)
	if n < 8 {
		var or byte
		for i := range n {
			or |= s[i]
		}
		return or < utf8.RuneSelf
	}
	or := word(s[n-8:])
	for ; n > 8; n -= 8 {
		or |= word(s)
		s = s[8:]
	}
	return or&high == 0
}

// word is one load: the compiler joins the bytes.
func word(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

func validParty(p *v1.Party) bool {
	return p == nil || validStrings(p.SpiffeId, p.AgentClass, p.Serial)
}

func validLabel(l *v1.Label) bool {
	return l == nil || (validStrings(l.Readers...) && validStrings(l.Tags...) && validStrings(l.Sources...))
}

func validCapabilities(caps []*v1.Capability) bool {
	for _, c := range caps {
		if !validStrings(c.GetAction()) || !validStrings(c.GetResource()...) {
			return false
		}
		for _, x := range c.GetConstraints() {
			if !validStrings(x.GetKey(), x.GetPrefix(), x.GetEq().GetText()) {
				return false
			}
			for _, v := range x.GetOneOf().GetValues() {
				if !validStrings(v.GetText()) {
					return false
				}
			}
		}
	}
	return true
}
