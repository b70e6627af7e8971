package audit

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

const (
	// MaxGraphCalls bounds the calls that one graph joins; at about 300 B each 80 MB.
	MaxGraphCalls = 1 << 18
	// MaxGraphNodes is what a person can still read.
	MaxGraphNodes = 300
	// MaxGraphEdges bounds the edges of a graph.
	MaxGraphEdges = 4096
	// maxOnBehalf bounds the principals listed on one edge.
	maxOnBehalf = 16
)

// Unverified is the node of callers that were refused before they had an identity.
const Unverified = "(unverified peer)"

// Node is one agent.
type Node struct {
	ID    string
	Class string
}

// Edge is what one agent asked of another.
type Edge struct {
	From, To, Action string
	// A call that was decided for and finished, one that was refused, and one whose end nobody recorded.
	Allowed, Denied, Unknown uint64
	// OnBehalf lists the original principals, at most 16; MorePrincipals says that there are others.
	OnBehalf       []string
	MorePrincipals bool
	// Tenants are those of both sides.
	Tenants []string
	// Reasons counts the denials by reason name.
	Reasons map[string]uint64
	First   time.Time
	Last    time.Time
}

// CrossTenant says whether the edge joins two tenants.
func (e Edge) CrossTenant() bool { return len(e.Tenants) > 1 }

// Graph says which agents talked to which, sorted by id.
type Graph struct {
	Nodes []Node
	Edges []Edge
	Logs  []LogSeen
	// Hidden counts calls whose agents or edge did not fit.
	Hidden uint64
	// ChainsMissing counts calls whose chain is spelled out in a segment that is not there: on whose behalf they were made is not known
	// from these logs.
	ChainsMissing uint64
	// Truncated says that records were left out because there were more than MaxGraphCalls calls.
	Truncated bool
}

type edgeKey struct{ from, to, action string }

// BuildGraph joins the records of several logs. A call that both sides recorded counts once, as the callee recorded it. The error
// is that of a log.
func BuildGraph(logs ...iter.Seq2[Record, error]) (Graph, error) {
	f, err := foldCalls(MaxGraphCalls, logs)
	if err != nil {
		return Graph{}, err
	}
	g := Graph{Logs: f.logs, Truncated: f.truncated}
	nodes := make(map[string]*Node)
	edges := make(map[edgeKey]*Edge)
	for _, c := range f.list {
		if c.chainMissing && c.origin == "" {
			g.ChainsMissing += c.count
		}
		g.count(c, nodes, edges)
	}
	for _, n := range nodes {
		g.Nodes = append(g.Nodes, *n)
	}
	for _, e := range edges {
		slices.Sort(e.OnBehalf)
		slices.Sort(e.Tenants)
		g.Edges = append(g.Edges, *e)
	}
	slices.SortFunc(g.Nodes, func(a, b Node) int { return cmp.Compare(a.ID, b.ID) })
	slices.SortFunc(g.Edges, func(a, b Edge) int {
		return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To), cmp.Compare(a.Action, b.Action))
	})
	return g, nil
}

func (g *Graph) count(c *call, nodes map[string]*Node, edges map[edgeKey]*Edge) {
	key := edgeKey{cmp.Or(c.from, Unverified), cmp.Or(c.to, Unverified), c.action}
	fresh := 0
	for _, id := range []string{key.from, key.to} {
		if nodes[id] == nil {
			fresh++
		}
	}
	e := edges[key]
	if len(nodes)+fresh > MaxGraphNodes || (e == nil && len(edges) == MaxGraphEdges) {
		g.Hidden += c.count
		return
	}
	addNode(nodes, key.from, c.fromClass)
	addNode(nodes, key.to, c.toClass)
	if e == nil {
		e = &Edge{From: key.from, To: key.to, Action: key.action, First: time.Unix(0, c.firstNs)}
		edges[key] = e
	}
	e.add(c)
}

func addNode(nodes map[string]*Node, id, class string) {
	n := nodes[id]
	if n == nil {
		n = &Node{ID: id}
		nodes[id] = n
	}
	n.Class = cmp.Or(class, n.Class)
}

func (e *Edge) add(c *call) {
	switch c.state() {
	case CallAllowed:
		e.Allowed += c.count
	case CallDenied:
		e.Denied += c.count
		if e.Reasons == nil {
			e.Reasons = make(map[string]uint64)
		}
		e.Reasons[reasonText(c.reason())] += c.count
	default:
		e.Unknown += c.count
	}
	if c.origin != "" && !slices.Contains(e.OnBehalf, c.origin) {
		if len(e.OnBehalf) < maxOnBehalf {
			e.OnBehalf = append(e.OnBehalf, c.origin)
		} else {
			e.MorePrincipals = true
		}
	}
	for _, t := range []string{c.tenant, c.peerTenant} {
		if t != "" && !slices.Contains(e.Tenants, t) && len(e.Tenants) < maxOnBehalf {
			e.Tenants = append(e.Tenants, t)
		}
	}
	if t := time.Unix(0, c.firstNs); t.Before(e.First) {
		e.First = t
	}
	if t := time.Unix(0, c.lastNs); t.After(e.Last) {
		e.Last = t
	}
}
