package chaintext

import (
	"fmt"
	"io"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// WriteLinks writes what an audit log says of a chain whose own bytes are in no record: its links, as the enforcement core verified
// them then. Nobody can verify them again.
func WriteLinks(w io.Writer, ref []byte, links []*v1.ChainLink) error {
	p := &page{w: w}
	p.line(0, 0, "FROM THE LOG: links of a chain that was verified when it was recorded.")
	p.line(0, 0, "Its bytes are not in the log, so it cannot be verified again.")
	p.gap()
	p.row(0, headLabel, "reference", orNone(hexOf(ref)))
	for i, l := range links {
		if i > maxHopsShown {
			p.linef(0, "!  %d more links are not shown", len(links)-i)
			break
		}
		p.gap()
		p.line(0, inset, fmt.Sprintf("%d  %s -> %s", l.GetDepth(), word(l.GetDelegator()), word(l.GetDelegate())))
		p.row(inset, partLabel, "ends", moment(l.GetExpiresAtMs()).Text)
		s := Statement{Capabilities: granted(l.GetCapabilities())}
		if i > 0 {
			s.Capabilities, s.Dropped = passed(links[i-1].GetCapabilities(), l.GetCapabilities(), l.GetDepth())
		}
		s.rights(p)
		p.row(inset, partLabel, "statement", hexOf(l.GetStatementId()))
	}
	return p.err
}
