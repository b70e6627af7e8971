package audit

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
)

// Text writes the record in a few lines for people, at most 80 columns wide, with every recorded text made visible.
func (r Record) Text(w io.Writer) error {
	o := &textOut{w: w}
	ev := r.Event
	word := func(s, prefix string) string { return strings.ToLower(strings.TrimPrefix(s, prefix)) }
	head := fmt.Sprintf("%d %s %s", r.Seq, time.Unix(0, ev.TimeUnixNs).UTC().Format(time.RFC3339Nano), word(ev.Kind.String(), "EVENT_KIND_"))
	if ev.Phase != 0 {
		head += " " + word(ev.Phase.String(), "EVENT_PHASE_")
	}
	if ev.Direction != 0 {
		head += " " + word(ev.Direction.String(), "EVENT_DIRECTION_")
	}
	if ev.Decision != 0 {
		head += " " + word(ev.Decision.String(), "EVENT_DECISION_")
	}
	if ev.ClockRegressed {
		head += " CLOCK-REGRESSED"
	}
	o.line(0, head)
	if from, to := ev.GetActor().GetSpiffeId(), ev.GetPeer().GetSpiffeId(); from != "" || to != "" {
		o.linef(2, "%s -> %s", cmp.Or(from, Unverified), cmp.Or(to, Unverified))
	}
	if ev.Action != "" {
		o.linef(2, "%s on %s", ev.Action, resourceText(ev.Resource))
	}
	if s := principalText(ev.Origin); s != "" {
		o.linef(2, "for %s", s)
	}
	if r.ChainMissing {
		o.linef(2, "chain %x: no record here spells it out", ev.ChainRef)
	}
	if ev.Reason != 0 || ev.WireReason != 0 {
		o.linef(2, "reason %s, told %s", reasonText(ev.Reason), reasonText(ev.WireReason))
	}
	if id, ok := id16(ev.DecisionId); ok {
		o.linef(2, "decision %s", idText(id))
	}
	if ev.Outcome != nil {
		o.linef(2, "code %d after %d us", ev.Outcome.Code, ev.Outcome.DurationUs)
	}
	if ev.RepeatedCount > 0 {
		o.linef(2, "stands for %d", ev.RepeatedCount)
	}
	for _, s := range []string{ev.Cause, ev.Detail} {
		if s != "" {
			o.line(2, s)
		}
	}
	return o.err
}

// JSON returns the record as one line of JSON without the line end: its position and the event in protobuf JSON. Characters that
// could act on a terminal are escaped.
func (r Record) JSON() ([]byte, error) {
	event, err := protojson.Marshal(r.Event)
	if err != nil {
		return nil, fmt.Errorf("record %d as JSON: %w", r.Seq, err)
	}
	line, err := json.Marshal(struct {
		LogID  string          `json:"log_id"`
		BootID string          `json:"boot_id"`
		Seq    uint64          `json:"seq"`
		Leaf   string          `json:"leaf_hash"`
		Chain  string          `json:"chain_hash"`
		Event  json.RawMessage `json:"event"`
		// Left out where it is false.
		ChainMissing bool `json:"chain_missing,omitempty"`
	}{idText(r.LogID), idText(r.BootID), r.Seq, hex.EncodeToString(r.Leaf[:]), hex.EncodeToString(r.Chain[:]), event, r.ChainMissing})
	if err != nil {
		return nil, fmt.Errorf("record %d as JSON: %w", r.Seq, err)
	}
	var b bytes.Buffer
	for len(line) > 0 {
		c, n := utf8.DecodeRune(line)
		switch {
		case plain(c):
			b.Write(line[:n])
		case c < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, c)
		default:
			hi, lo := (c-0x10000)>>10+0xd800, (c-0x10000)&0x3ff+0xdc00
			fmt.Fprintf(&b, `\u%04x\u%04x`, hi, lo)
		}
		line = line[n:]
	}
	return b.Bytes(), nil
}
