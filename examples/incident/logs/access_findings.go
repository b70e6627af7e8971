package logs

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// clientStats is what one client did, as indexes into Log.access.
type clientStats struct {
	client   string
	all      []int
	probes   []int
	leaked   []int // secret paths answered with content
	refused  []int
	payloads map[Kind][]int
	agents   []int // names a scanning tool
	inject   []int
}

func (l *Log) findAccess() []Finding {
	clients := l.accessClients()
	var fs, few []Finding
	for _, c := range clients {
		probe := l.findProbes(c)
		if probe != nil && probe.Severity == Low {
			few = append(few, *probe)
		} else if probe != nil {
			fs = append(fs, *probe)
		}
		if probe == nil || probe.Severity == Low {
			if f := l.findMissing(c); f != nil {
				fs = append(fs, *f)
			}
		}
		fs = append(fs, l.findPayloads(c)...)
		if f := l.findLogins(c); f != nil {
			fs = append(fs, *f)
		}
	}
	fs = append(fs, mergeFew(few)...)
	fs = append(fs, l.findFloods(clients)...)
	fs = append(fs, l.findServerErrors()...)
	fs = append(fs, l.findGarbage()...)
	return append(fs, l.findNotFound(fs)...)
}

func (l *Log) accessClients() []*clientStats {
	byName := map[string]*clientStats{}
	var clients []*clientStats
	absolute := 0
	for i := range l.access {
		if strings.HasPrefix(l.access[i].target, "http") {
			absolute++
		}
	}
	// A forward proxy's log has absolute targets throughout; anywhere else
	// they are somebody looking for an open proxy.
	proxy := absolute*5 > len(l.access)
	memo := newFieldMemo()
	for i := range l.access {
		e := &l.access[i]
		c := byName[e.client]
		if c == nil {
			c = &clientStats{client: e.client, payloads: map[Kind][]int{}}
			byName[e.client] = c
			clients = append(clients, c)
		}
		c.add(i, e, proxy, memo)
	}
	return clients
}

func (c *clientStats) add(i int, e *accessEntry, proxy bool, memo *fieldMemo) {
	c.all = append(c.all, i)
	switch e.status {
	case 400, 403, 404, 405:
		c.refused = append(c.refused, i)
	}
	if kind := payloadKind(e); kind != "" {
		c.payloads[kind] = append(c.payloads[kind], i)
	}
	probe, secret := isProbe(e)
	if !proxy && (e.method == "CONNECT" || strings.HasPrefix(e.target, "http")) && e.status >= 400 {
		probe = true
	}
	if probe {
		c.probes = append(c.probes, i)
	}
	if secret && e.status == 200 {
		c.leaked = append(c.leaked, i)
	}
	if memo.scanner(e.agent) {
		c.agents = append(c.agents, i)
	}
	if memo.instructs(e.agent) || looksInstructing(e.referer) || looksInstructing(e.target) || looksInstructing(e.user) {
		c.inject = append(c.inject, i)
	}
}

// numbers turns indexes into line numbers.
func (l *Log) numbers(idx []int) []int {
	out := make([]int, len(idx))
	for i, x := range idx {
		out[i] = l.access[x].no
	}
	return out
}

// clientFinding fills what the findings about one client share.
func (l *Log) clientFinding(kind Kind, sev Severity, c *clientStats, idx []int, summary string) Finding {
	e := &l.access[idx[0]]
	return Finding{
		Kind: kind, Severity: sev, Subject: showSource(c.client), Summary: summary, Excerpt: Escape(e.request, maxExcerpt),
		Stoppable: ruleable(c.client), all: l.numbers(idx), source: c.client,
	}
}

// showSource writes a client for people: an address as it is, a name escaped.
func showSource(s string) string {
	if _, err := netip.ParseAddr(s); err == nil || validHost(s) {
		return s
	}
	return Escape(s, maxSubject)
}

func (l *Log) findProbes(c *clientStats) *Finding {
	idx := c.probes
	paths := map[string]bool{}
	for _, i := range c.refused {
		paths[l.access[i].path] = true
	}
	scan := len(c.refused) >= ScanNotFoundMin && len(paths) >= ScanDistinctMin && len(c.refused)*2 >= len(c.all)
	if scan {
		idx = append(slices.Clone(idx), c.refused...)
		slices.Sort(idx)
		idx = slices.Compact(idx)
	}
	if len(idx) == 0 {
		return nil
	}
	sev := Low
	if scan || len(c.probes) >= ProbeMin {
		sev = Medium
	}
	summary := fmt.Sprintf("%s asked for paths that scanners look for (%s).",
		plural(len(idx), "request"), join(l.topPaths(idx), 3))
	if scan {
		summary = fmt.Sprintf("%s of %d were refused, for %s: a scan.",
			plural(len(c.refused), "request"), len(c.all), plural(len(paths), "different path"))
	}
	if len(c.leaked) > 0 {
		sev = High
		first := &l.access[c.leaked[0]]
		summary += fmt.Sprintf(" Line %d was answered with 200: check what it served.", first.no)
	}
	f := l.clientFinding(KindPathProbe, sev, c, idx, summary)
	return &f
}

// topPaths lists the most requested paths, escaped.
func (l *Log) topPaths(idx []int) []string {
	var g group
	for _, i := range idx {
		p := l.access[i].path
		if l.access[i].method == "" {
			p = l.access[i].request
		}
		g.add(p, i)
	}
	slices.SortStableFunc(g.names, func(a, b string) int { return len(g.lines[b]) - len(g.lines[a]) })
	out := make([]string, 0, len(g.names))
	for _, n := range g.names {
		out = append(out, Escape(n, maxSubject))
	}
	return out
}

// mergeFew joins the clients with too few probes to be a scan.
func mergeFew(few []Finding) []Finding {
	if len(few) < 2 {
		return few
	}
	m := Finding{Kind: KindPathProbe, Severity: Low, Subject: plural(len(few), "client"), Excerpt: few[0].Excerpt, Stoppable: true}
	for _, f := range few {
		m.all = append(m.all, f.all...)
	}
	m.Summary = fmt.Sprintf("%s, fewer than %d from each client, asked for paths that scanners look for.",
		plural(len(m.all), "request"), ProbeMin)
	return []Finding{m}
}

// payloadText says what each kind of payload tries.
var payloadText = map[Kind]string{
	KindTraversal:    "tried to leave the document root",
	KindSQLInjection: "carried SQL",
	KindScript:       "carried script for a browser",
	KindCommand:      "carried a command for the server",
}

func (l *Log) findPayloads(c *clientStats) []Finding {
	var fs []Finding
	for _, kind := range []Kind{KindCommand, KindSQLInjection, KindScript, KindTraversal} {
		idx := c.payloads[kind]
		if len(idx) == 0 {
			continue
		}
		sev, answered := Medium, 0
		for _, i := range idx {
			if l.access[i].status/100 == 2 {
				answered++
			}
		}
		if len(idx) >= ProbeMin || answered > 0 {
			sev = High
		}
		summary := fmt.Sprintf("%s %s; %d answered with 2xx.", plural(len(idx), "request"), payloadText[kind], answered)
		fs = append(fs, l.clientFinding(kind, sev, c, idx, summary))
	}
	if len(c.agents) > 0 {
		f := l.clientFinding(KindScannerAgent, Medium, c, c.agents,
			fmt.Sprintf("%s named a scanning tool as user agent.", plural(len(c.agents), "request")))
		f.Excerpt = Escape(l.access[c.agents[0]].agent, maxExcerpt)
		f.literal = scannerAgents.FindString(l.access[c.agents[0]].agent)
		fs = append(fs, f)
	}
	if len(c.inject) > 0 {
		fs = append(fs, l.injectionFinding(c))
	}
	return fs
}

func (l *Log) injectionFinding(c *clientStats) Finding {
	e := &l.access[c.inject[0]]
	field, text := "user agent", e.agent
	switch {
	case looksInstructingField(e.agent):
	case looksInstructing(e.referer):
		field, text = "referer", e.referer
	default:
		field, text = "request", e.request
	}
	f := l.clientFinding(KindInjection, High, c, c.inject, fmt.Sprintf(
		"The %s of %s addresses the reader with instructions; it is untrusted content and was not followed.",
		field, plural(len(c.inject), "request")))
	f.Excerpt = Escape(text, maxExcerpt)
	if field == "user agent" {
		f.literal = text
	}
	return f
}
