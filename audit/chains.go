package audit

import (
	"context"
	"errors"
	"sync"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// MaxSpelledChains bounds the chains that a log remembers to have spelled out in its present epoch, at about 80 B each. One more,
	// and it forgets all of them: they are spelled out again. Readers keep as many.
	MaxSpelledChains = 1 << 14
	// MaxPresentedBytes bounds the evidence in a record that spells out a chain; it is the bound of a chain itself. Append leaves out
	// what is larger, and what does not fit into the record.
	MaxPresentedBytes = 16 << 10

	linkBytes = 32
)

// Speller adds to an event that names a chain by chain_ref what follows from the chain: chain, presented, chain_id, origin,
// task_id, depth, max_depth, and as peer the last delegate, who writes the record.
type Speller interface {
	Spell(e *Event)
}

// ChainRecorder is a Recorder that says a chain once.
type ChainRecorder interface {
	Recorder
	// AppendChain is Append for an event that names a chain by chain_ref alone. It calls s for at most once, and only when the chain is
	// not spelled out yet where a reader looks for it, so that s may be slow. What s does to e stays.
	//
	// The contract with readers: a record whose chain_ref comes without chain follows, in the same segment or the one before it, a
	// record of the same boot that spells the chain out. Every durable record therefore has a durable one that explains it.
	AppendChain(ctx context.Context, c Class, e *Event, s Speller) (Position, error)
}

var _ ChainRecorder = (*Log)(nil)

// spelled remembers in which epoch each chain was spelled out last. An epoch begins with the process and with each swap of
// buffers that starts a segment, under the lock that gives out seqs. A record accepted in an epoch is thus written to the segment
// that is open in it or to the next one, never further away: that is what the contract of AppendChain rests on.
type spelled struct {
	mu    sync.Mutex
	epoch map[[linkBytes]byte]uint64
}

// in returns the epoch in which the chain was spelled out, or 0.
func (s *spelled) in(link [linkBytes]byte) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.epoch[link]
}

// mark is called only for records that the log has accepted: a chain whose record was refused is still to be spelled out.
func (s *spelled) mark(link [linkBytes]byte, epoch uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.epoch == nil || len(s.epoch) >= MaxSpelledChains {
		s.epoch = make(map[[linkBytes]byte]uint64)
	}
	s.epoch[link] = max(s.epoch[link], epoch)
}

// AppendChain implements ChainRecorder.
func (l *Log) AppendChain(ctx context.Context, c Class, e *Event, s Speller) (Position, error) {
	return l.append(ctx, c, e, s)
}

// accept gives e a place in the buffer, with its chain spelled out where it must be.
func (l *Log) accept(ctx context.Context, x *scratch, e *Event, s Speller, wait bool) (Position, error) {
	pos := Position{LogID: l.id.logID, BootID: l.bootID}
	only := anyEpoch
	link, named := linkOf(e)
	if named && s != nil && len(e.Chain) == 0 {
		if only = l.spelled.in(link); only != l.epoch.Load() {
			only = anyEpoch
			s.Spell(e)
		}
	}
	for {
		var err error
		if pos.Leaf, err = l.encode(x, e); err != nil {
			return Position{}, err
		}
		var epoch uint64
		pos.Seq, epoch, err = l.enqueue(ctx, x.frame, pos.Leaf, wait, only)
		if errors.Is(err, errEpoch) { // a segment was started meanwhile
			only = anyEpoch
			s.Spell(e)
			continue
		}
		if err != nil {
			return Position{}, err
		}
		if named && len(e.Chain) > 0 {
			l.spelled.mark(link, epoch)
		}
		return pos, nil
	}
}

// linkOf returns the chain that e names.
func linkOf(e *Event) (link [linkBytes]byte, ok bool) {
	if e.Kind != v1.EventKind_EVENT_KIND_CALL || len(e.ChainRef) != linkBytes {
		return link, false
	}
	return [linkBytes]byte(e.ChainRef), true
}
