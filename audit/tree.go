package audit

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"time"
)

// MaxTreeCalls bounds the calls that one tree is looked for in.
const MaxTreeCalls = 100_000

// maxTreeDepth bounds the indentation of a tree; delegation ends at 8 hops, conversations go on.
const maxTreeDepth = 64

// Selector says which interaction is wanted: every nonzero field names it, one is enough.
type Selector struct {
	Conversation, Trace, Envelope [16]byte
}

// GapClass says what is missing where a tree has a gap.
type GapClass string

const (
	// NoGap is a call with records.
	NoGap GapClass = ""
	// GapCause says that a message names a cause that no log recorded.
	GapCause GapClass = "CAUSE_NOT_RECORDED"
	// GapCallee says that the caller recorded a call that it allowed, the callee's log does not have it or is not here.
	GapCallee GapClass = "MISSING_AT_CALLEE"
	// GapCaller says that the callee recorded a call, the caller's log does not have it or is not here.
	GapCaller GapClass = "MISSING_AT_CALLER"
)

// CallNode is one call of a tree, or a gap.
type CallNode struct {
	Envelope         [16]byte
	From, To, Action string
	State            CallState
	Reason           string
	At               time.Time
	// Caller and Callee are the first record of each side, nil where there is none.
	Caller, Callee *Position
	Gap            GapClass
	// Cut says that the causes of this call lead back to it; the circle is cut here.
	Cut      bool
	Children []*CallNode
}

// Tree is one interaction across agents. Order comes from causation and, among siblings, from time.
type Tree struct {
	Roots []*CallNode
	Calls int
	Gaps  int
	Logs  []LogSeen
	// Truncated says that there were more than MaxTreeCalls calls or more than 64 levels.
	Truncated bool
}

// BuildTree joins the records of several logs to the tree that s names. A call's parent is the call whose envelope id is its
// causation id, in any log. Senders choose these ids: of several calls with one id, the parent is one that its caller received, under
// the same chain, before any other. With an envelope alone the tree holds everything that led to it and that it led to. Errors: ErrNotFound,
// those of a log.
func BuildTree(s Selector, logs ...iter.Seq2[Record, error]) (Tree, error) {
	if s == (Selector{}) {
		return Tree{}, errors.New("building tree: nothing is selected")
	}
	f, err := foldCalls(MaxTreeCalls, logs)
	if err != nil {
		return Tree{}, err
	}
	b := &treeBuilder{
		tree: Tree{Logs: f.logs, Truncated: f.truncated}, calls: make(map[causeKey]*call),
		children: make(map[*call][]*call), wanted: make(map[*call]bool), placed: make(map[*call]bool),
	}
	b.index(f.list)
	b.selectCalls(s, f.list)
	if len(b.wanted) == 0 {
		return Tree{}, fmt.Errorf("building tree: %w", ErrNotFound)
	}
	b.build(f.list)
	return b.tree, nil
}

type treeBuilder struct {
	tree     Tree
	calls    map[causeKey]*call
	children map[*call][]*call
	wanted   map[*call]bool
	placed   map[*call]bool
}

// causeKey finds a message by its id, by who received it, and by its chain. The last two may be left out.
type causeKey struct {
	envelope, chain [16]byte
	to              string
}

func causeKeys(envelope, chain [16]byte, to string) [3]causeKey {
	return [3]causeKey{{envelope, chain, to}, {envelope: envelope, to: to}, {envelope: envelope}}
}

func (b *treeBuilder) index(list []*call) {
	for _, c := range list {
		if c.envelope == ([16]byte{}) {
			continue
		}
		for _, k := range causeKeys(c.envelope, c.chain, c.to) {
			// The first call of an envelope is the one that was accepted; replays do not get its children.
			if b.calls[k] == nil {
				b.calls[k] = c
			}
		}
	}
	for _, c := range list {
		if up := b.cause(c); up != nil {
			b.children[up] = append(b.children[up], c)
		}
	}
}

// cause returns the call that led to c, nil when there is none or no log has it.
func (b *treeBuilder) cause(c *call) *call {
	if c.causation == ([16]byte{}) {
		return nil
	}
	for _, k := range causeKeys(c.causation, c.chain, c.from) {
		if up := b.calls[k]; up != nil {
			return up
		}
	}
	return nil
}

// selectCalls marks what s names, with all causes and all consequences.
func (b *treeBuilder) selectCalls(s Selector, list []*call) {
	var down []*call
	for _, c := range list {
		if (s.Envelope != [16]byte{} && c.envelope == s.Envelope) ||
			(s.Conversation != [16]byte{} && c.conversation == s.Conversation) ||
			(s.Trace != [16]byte{} && c.trace == s.Trace) {
			b.wanted[c] = true
			down = append(down, c)
		}
	}
	for _, c := range slices.Clone(down) {
		for up := b.cause(c); up != nil && !b.wanted[up]; up = b.cause(up) {
			b.wanted[up] = true
		}
	}
	for len(down) > 0 {
		c := down[len(down)-1]
		down = down[:len(down)-1]
		for _, child := range b.children[c] {
			if !b.wanted[child] {
				b.wanted[child] = true
				down = append(down, child)
			}
		}
	}
}

func (b *treeBuilder) build(list []*call) {
	calls := slices.DeleteFunc(slices.Clone(list), func(c *call) bool { return !b.wanted[c] })
	slices.SortStableFunc(calls, func(a, c *call) int { return cmp.Compare(a.firstNs, c.firstNs) })
	gaps := make(map[[16]byte]*CallNode)
	for _, c := range calls {
		switch {
		case c.causation == ([16]byte{}):
			b.tree.Roots = append(b.tree.Roots, b.place(c, 0))
		case b.cause(c) == nil:
			gap := gaps[c.causation]
			if gap == nil {
				gap = &CallNode{Envelope: c.causation, Gap: GapCause, At: time.Unix(0, c.firstNs)}
				gaps[c.causation] = gap
				b.tree.Gaps++
				b.tree.Roots = append(b.tree.Roots, gap)
			}
			gap.Children = append(gap.Children, b.place(c, 1))
		}
	}
	for _, c := range calls { // what is left hangs in a circle
		if !b.placed[c] && !b.tree.Truncated {
			n := b.place(c, 0)
			n.Cut = true
			b.tree.Roots = append(b.tree.Roots, n)
		}
	}
}

// place returns the node of c with everything below it. A call is placed once.
func (b *treeBuilder) place(c *call, depth int) *CallNode {
	b.placed[c] = true
	b.tree.Calls++
	n := &CallNode{
		Envelope: c.envelope, From: c.from, To: c.to, Action: c.action, State: c.state(), At: time.Unix(0, c.firstNs),
	}
	if r := c.reason(); r != 0 {
		n.Reason = reasonText(r)
	}
	if c.caller.seen {
		n.Caller = &c.caller.pos
	}
	if c.callee.seen {
		n.Callee = &c.callee.pos
	}
	switch {
	case !c.callee.seen && c.caller.state() != CallDenied:
		n.Children = append(n.Children, &CallNode{Envelope: c.envelope, From: c.from, To: c.to, Gap: GapCallee, At: n.At})
		b.tree.Gaps++
	case !c.caller.seen && c.from != "" && c.envelope != ([16]byte{}):
		n.Gap = GapCaller
		b.tree.Gaps++
	}
	if depth >= maxTreeDepth {
		b.tree.Truncated = b.tree.Truncated || len(b.children[c]) > 0
		return n
	}
	kids := slices.Clone(b.children[c])
	slices.SortStableFunc(kids, func(x, y *call) int { return cmp.Compare(x.firstNs, y.firstNs) })
	for _, kid := range kids {
		if b.wanted[kid] && !b.placed[kid] {
			n.Children = append(n.Children, b.place(kid, depth+1))
		}
	}
	return n
}

// Text writes the tree for people, at most 80 columns wide, with every recorded text made visible.
func (t Tree) Text(w io.Writer) error {
	o := &textOut{w: w}
	o.linef(0, "%d calls, %d gaps", t.Calls, t.Gaps)
	for _, l := range t.Logs {
		o.linef(0, "log %s: %d records, newest seq %d", idText(l.LogID), l.Records, l.Newest)
	}
	if t.Truncated {
		o.linef(0, "not complete: there are more than %d calls or %d levels", MaxTreeCalls, maxTreeDepth)
	}
	for _, n := range t.Roots {
		n.text(o, 0)
	}
	return o.err
}

func (n *CallNode) text(o *textOut, indent int) {
	switch n.Gap {
	case GapCause:
		o.linef(indent, "GAP %s: message %s is in no log given", n.Gap, idText(n.Envelope))
	case GapCallee:
		o.linef(indent, "GAP %s: no log given has the record of %s", n.Gap, n.To)
		return
	default:
		o.linef(indent, "%s %s  %s", n.State, orNone(n.Action), n.At.UTC().Format(time.RFC3339Nano))
		o.linef(indent+2, "%s -> %s", cmp.Or(n.From, Unverified), cmp.Or(n.To, Unverified))
		if n.Reason != "" {
			o.linef(indent+2, "reason %s", n.Reason)
		}
		if n.Gap == GapCaller {
			o.linef(indent+2, "GAP %s: no log given has the record of %s", n.Gap, n.From)
		}
		if n.Cut {
			o.line(indent+2, "CYCLE: its causes lead back to it; cut here")
		}
	}
	for _, child := range n.Children {
		child.text(o, indent+2)
	}
}
