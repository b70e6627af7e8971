package audit

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Text writes the explanation for people, at most 80 columns wide, with every recorded text made visible.
func (x Explanation) Text(w io.Writer) error {
	o := &textOut{w: w}
	verdict := "DENIED"
	if x.Decision == v1.EventDecision_EVENT_DECISION_ALLOW {
		verdict = "ALLOWED"
	}
	o.linef(0, "decision %s: %s", idText(x.DecisionID), verdict)
	o.linef(2, "%s, record %d of log %s", x.At.UTC().Format(time.RFC3339Nano), x.Position.Seq, idText(x.Position.LogID))
	if x.Reason != 0 || x.WireReason != 0 {
		o.linef(2, "reason %s; the caller was told %s", reasonText(x.Reason), reasonText(x.WireReason))
	}
	if x.Cause != "" {
		o.linef(2, "cause: %s", x.Cause)
	}
	o.line(2, x.Otherwise)

	o.raw("\nwho\n")
	o.linef(2, "%s", cmp.Or(x.Actor, Unverified))
	if x.ActorClass != "" || x.ActorState != "" {
		o.linef(2, "class %s, state %s", cmp.Or(x.ActorClass, "not recorded"), cmp.Or(x.ActorState, "not recorded"))
	}
	o.raw("for whom\n")
	o.line(2, cmp.Or(x.Origin, "not recorded"))
	o.linef(2, "tenant %s", cmp.Or(x.Tenant, "not recorded"))
	if x.PeerTenant != "" && x.PeerTenant != x.Tenant {
		o.linef(2, "the other side is in tenant %s", x.PeerTenant)
	}
	o.raw("what\n")
	o.linef(2, "%s on %s", orNone(x.Action), resourceText(x.Resource))
	o.linef(2, "at %s", cmp.Or(x.Callee, "no known callee"))
	if x.Purpose != "" {
		o.linef(2, "purpose: %s", x.Purpose)
	}
	x.authority(o)
	x.policy(o)
	switch {
	case x.Finished:
		o.linef(2, "the call ended with code %d", x.Code)
	case verdict == "ALLOWED":
		o.line(2, "no outcome is recorded: whether the effect happened is UNKNOWN")
	}
	return o.err
}

func (x Explanation) authority(o *textOut) {
	o.raw("by what authority\n")
	switch {
	case len(x.Links) > 0:
	case x.ChainMissing:
		o.line(2, "the chain is named, but no record given spells it out: that segment is not here")
	default:
		o.line(2, "no chain is recorded")
	}
	for _, l := range x.Links {
		o.linef(2, "%d: %s", l.Depth, l.From)
		o.linef(5, "-> %s, until %s", l.To, l.Expires.UTC().Format(time.RFC3339))
		for _, c := range l.Capabilities {
			o.linef(7, "%s", c)
		}
	}
	if len(x.Links) == 0 {
		for _, c := range x.Capabilities {
			o.linef(4, "%s", c)
		}
	}
	if x.MaxDepth > 0 {
		o.linef(2, "%d hops of at most %d", x.Depth, x.MaxDepth)
	}
}

func (x Explanation) policy(o *textOut) {
	o.raw("under which label and policy\n")
	o.linef(2, "claimed %s", labelText(x.Claimed))
	o.linef(2, "effective %s", labelText(x.Effective))
	if x.Floor != 0 {
		s := "the rule demands " + integrityText(x.Floor)
		if x.Cap != 0 {
			s += fmt.Sprintf("; this caller reaches %s at most", integrityText(x.Cap))
		}
		o.line(2, s)
	}
	if x.PolicySerial > 0 || len(x.PolicySHA256) > 0 {
		o.linef(2, "table serial %d, sha256 %s", x.PolicySerial, hexOr(x.PolicySHA256, "not recorded"))
	}
	if len(x.Policies) > 0 {
		o.linef(2, "rows %s", strings.Join(x.Policies, ", "))
	}
}
