package audit

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Text writes the graph for people, at most 80 columns wide, with every recorded text made visible.
func (g Graph) Text(w io.Writer) error {
	o := &textOut{w: w}
	var allowed, denied, unknown uint64
	for _, e := range g.Edges {
		allowed, denied, unknown = allowed+e.Allowed, denied+e.Denied, unknown+e.Unknown
	}
	o.linef(0, "%d agents, %d edges: %d allowed, %d denied, %d unknown", len(g.Nodes), len(g.Edges), allowed, denied, unknown)
	for _, l := range g.Logs {
		o.linef(0, "log %s: %d records, newest seq %d", idText(l.LogID), l.Records, l.Newest)
	}
	if g.Hidden > 0 {
		o.linef(0, "%d calls are not shown: the graph holds at most %d agents and %d edges", g.Hidden, MaxGraphNodes, MaxGraphEdges)
	}
	if g.ChainsMissing > 0 {
		o.linef(0, "%d calls name a chain that no record here spells out: on whose behalf they were made is not known", g.ChainsMissing)
	}
	if g.Truncated {
		o.linef(0, "there are more than %d calls: the later ones are not counted", MaxGraphCalls)
	}
	o.raw("\nagents\n")
	for _, n := range g.Nodes {
		o.line(2, strings.TrimSpace(n.ID+"  "+n.Class))
	}
	o.raw("\ncalls\n")
	for _, e := range g.Edges {
		e.text(o)
	}
	return o.err
}

func (e Edge) text(o *textOut) {
	o.linef(2, "%s", e.From)
	o.linef(4, "-> %s", e.To)
	o.linef(6, "%s: %d allowed, %d denied, %d unknown", orNone(e.Action), e.Allowed, e.Denied, e.Unknown)
	for _, r := range slices.Sorted(maps.Keys(e.Reasons)) {
		o.linef(8, "denied %d times: %s", e.Reasons[r], r)
	}
	for _, p := range e.OnBehalf {
		o.linef(8, "for %s", p)
	}
	if e.MorePrincipals {
		o.line(8, "for others too")
	}
	switch len(e.Tenants) {
	case 0:
	case 1:
		o.linef(8, "tenant %s", e.Tenants[0])
	default:
		o.linef(8, "ACROSS TENANTS %s", strings.Join(e.Tenants, ", "))
	}
}

func orNone(s string) string {
	if s == "" {
		return "(no action)"
	}
	return s
}

// DOT writes the graph for Graphviz: denied edges red, unknown ones dashed, edges between tenants doubled. No recorded text can
// leave its label.
func (g Graph) DOT(w io.Writer) error {
	o := &textOut{w: w}
	o.raw("digraph audit {\n  rankdir=LR;\n  node [shape=box];\n")
	names := make(map[string]string, len(g.Nodes))
	for i, n := range g.Nodes {
		names[n.ID] = fmt.Sprintf("n%d", i)
		label := n.ID
		if n.Class != "" {
			label += " | " + n.Class
		}
		o.raw(fmt.Sprintf("  n%d [label=%s];\n", i, dotString(label)))
	}
	for _, e := range g.Edges {
		label := fmt.Sprintf("%s: %d allowed, %d denied, %d unknown", orNone(e.Action), e.Allowed, e.Denied, e.Unknown)
		if len(e.OnBehalf) > 0 {
			label += " for " + strings.Join(e.OnBehalf, ", ")
		}
		color, style := "black", "solid"
		if e.Denied > 0 {
			color = "red"
		}
		if e.Unknown > 0 {
			style = "dashed"
		}
		if e.CrossTenant() {
			color += ":" + color
		}
		o.raw(fmt.Sprintf("  %s -> %s [label=%s, color=%q, style=%s];\n", names[e.From], names[e.To], dotString(label), color, style))
	}
	o.raw("}\n")
	return o.err
}
