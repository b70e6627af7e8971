package interceptors

import (
	"context"
	"errors"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/policy"
)

// draft is the memory of one record in the making. The log does not keep it, so that the next record can use it.
type draft struct {
	ev                 v1.AuditEvent
	party              v1.Party
	input              v1.DecisionInput
	claimed, effective v1.Label
	outcome            v1.Outcome
	// Which of the parts above were used.
	named, asked, ended bool
}

// other returns the party that the record names, for one whose every call is with somebody else.
func (d *draft) other(name string) *v1.Party {
	d.named, d.party.SpiffeId = true, name
	return &d.party
}

// end returns the outcome of the record.
func (d *draft) end() *v1.Outcome {
	d.ended = true
	return &d.outcome
}

// draft returns an empty draft; discard takes it back.
func (e *Enforcer) draft() *draft {
	if d, ok := e.drafts.Get().(*draft); ok {
		return d
	}
	return new(draft)
}

// discard empties d, so that nothing of one call is left when the next one is recorded.
func (e *Enforcer) discard(d *draft) {
	d.ev.Reset()
	if d.named {
		d.party.Reset()
	}
	if d.asked {
		d.input.Reset()
		d.claimed.Reset()
		d.effective.Reset()
	}
	if d.ended {
		d.outcome.Reset()
	}
	d.named, d.asked, d.ended = false, false, false
	e.drafts.Put(d)
}

// append writes a record, and a shorter one where the log cannot take the whole: a refusal must leave a trace whatever the peer sent.
// The first to go are the sets of the labels, which the peer alone chooses: they must not cost the record what this endpoint says of the
// call. With chain, the record names a chain that is spelled out where readers of the log need it, and always in a log that keeps no count.
func (e *Enforcer) append(ctx context.Context, class audit.Class, ev *v1.AuditEvent, chain audit.Speller) (audit.Position, error) {
	pos, err := e.appendChain(ctx, class, ev, chain)
	if errors.Is(err, audit.ErrTooLarge) && (ev.ControlClaimed != nil || ev.ControlEffective != nil) {
		ev.ControlClaimed, ev.ControlEffective, ev.Detail = outline(ev.ControlClaimed), outline(ev.ControlEffective), "labels: their sets do not fit into the record"
		if chain != nil {
			ev.Chain, ev.Presented = nil, nil // to be said again: the log may have left a part out
		}
		pos, err = e.appendChain(ctx, class, ev, chain)
	}
	if err != nil && (errors.Is(err, audit.ErrTooLarge) || errors.Is(err, audit.ErrInvalid)) {
		ev.Resource, ev.Policies, ev.DecisionInput, ev.Chain, ev.Presented, ev.ControlClaimed, ev.ControlEffective = nil, nil, nil, nil, nil, nil, nil
		ev.Method, ev.Purpose = clip(ev.GetMethod()), clip(ev.GetPurpose())
		return e.cfg.Audit.Append(ctx, class, ev)
	}
	return pos, err
}

func (e *Enforcer) appendChain(ctx context.Context, class audit.Class, ev *v1.AuditEvent, chain audit.Speller) (audit.Position, error) {
	if log, ok := e.cfg.Audit.(audit.ChainRecorder); ok && chain != nil {
		return log.AppendChain(ctx, class, ev, chain)
	}
	if chain != nil {
		chain.Spell(ev)
	}
	return e.cfg.Audit.Append(ctx, class, ev)
}

// outline returns what of a label fits into any record.
func outline(l *v1.Label) *v1.Label {
	if l == nil {
		return nil
	}
	return &v1.Label{Integrity: l.GetIntegrity(), Confidentiality: l.GetConfidentiality(), AnyReader: l.GetAnyReader(), SourcesTruncated: true}
}

// settle appends an outcome, whose call has no context left. The usual record waits for nothing and is spared the timer.
func (e *Enforcer) settle(class audit.Class, ev *v1.AuditEvent) error {
	if class == audit.Buffered {
		if _, err := e.append(context.Background(), class, ev, nil); !errors.Is(err, audit.ErrFull) {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
	defer cancel()
	_, err := e.append(ctx, class, ev, nil)
	return err
}

// question is what the policy was asked, beyond what the record of the call says anyway. audit.Expander puts the rest back.
type question struct {
	asked      bool
	registered *identity.Record
	floor      v1.Integrity
	purpose    string
	at         time.Time
}

func ask(r *policy.Request, now time.Time) question {
	q := question{asked: true, registered: r.Record, floor: r.MinIntegrity, purpose: r.Purpose, at: now}
	if q.floor == v1.Integrity_INTEGRITY_UNSPECIFIED {
		q.floor = v1.Integrity_INTEGRITY_ATTESTED
	}
	return q
}

// fill adds the decision input to an intent record that is complete otherwise: only what differs from the record.
func (q *question) fill(d *draft, claimed, effective policy.Label) {
	d.asked = true
	in, ev, state := &d.input, &d.ev, identity.StateUnknown
	in.MinIntegrity, in.NowUnixMs = q.floor, q.at.UnixMilli()
	if r := q.registered; r != nil {
		in.IntegrityCap, state = v1.Integrity(r.IntegrityCap), r.State
		if r.Class != ev.GetActor().GetAgentClass() { // the registry has changed since
			in.PrincipalClass = r.Class
		}
	}
	if state != identity.StateActive {
		in.PrincipalState = state.String()
	}
	if q.purpose != ev.Purpose {
		in.Purpose = q.purpose
	}
	ev.DecisionInput = in
	ev.ControlClaimed = setLabel(&d.claimed, claimed)
	setLabel(&d.effective, effective)
	if !equalLabel(&d.claimed, &d.effective) {
		ev.ControlEffective = &d.effective
	}
}

// setLabel is Label.Proto into memory that is there already.
func setLabel(dst *v1.Label, l policy.Label) *v1.Label {
	if l.Integrity == v1.Integrity_INTEGRITY_UNSPECIFIED {
		l.Integrity = v1.Integrity_INTEGRITY_UNTRUSTED
	}
	if l.Confidentiality == v1.Confidentiality_CONFIDENTIALITY_UNSPECIFIED {
		l.Confidentiality = v1.Confidentiality_CONFIDENTIALITY_RESTRICTED
	}
	dst.Integrity, dst.Confidentiality, dst.AnyReader = l.Integrity, l.Confidentiality, l.AnyReader
	dst.Readers, dst.Tags, dst.Sources, dst.SourcesTruncated = l.Readers, l.Tags, l.Sources, l.SourcesTruncated
	return dst
}

func equalLabel(a, b *v1.Label) bool {
	return a.GetIntegrity() == b.GetIntegrity() && a.GetConfidentiality() == b.GetConfidentiality() && a.GetAnyReader() == b.GetAnyReader() &&
		a.GetSourcesTruncated() == b.GetSourcesTruncated() && equalPath(a.GetReaders(), b.GetReaders()) && equalPath(a.GetTags(), b.GetTags()) &&
		equalPath(a.GetSources(), b.GetSources())
}
