package runtime

import (
	"context"
	"encoding/binary"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/delegation"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

type silent struct{}

func (silent) RenewGrant(context.Context, *v1.DelegationChain) (*v1.SignedStatement, error) {
	return nil, nil
}

// The table of renewals is bounded: what is over makes room, what lives is never thrown out for something new.
func TestRenewalsAreBounded(t *testing.T) {
	// The zero leaf ends in 1970.
	over, before := new(delegation.Leaf), time.Unix(-1, 0)
	fill := func(busy chan struct{}) *renewals {
		r := &renewals{renewer: silent{}, m: map[[32]byte]*renewal{}}
		for i := range maxRenewals {
			var k [32]byte
			binary.BigEndian.PutUint64(k[:], uint64(i)+1)
			r.m[k] = &renewal{leaf: over, busy: busy}
		}
		return r
	}
	if e := fill(nil).entry(over, before); e != nil {
		t.Error("a chain found a place in a table full of chains that live")
	}
	r := fill(make(chan struct{}))
	if e := r.entry(over, time.Now()); e != nil || len(r.m) != maxRenewals {
		t.Error("what is over got a place")
	}
	r = fill(nil)
	for k, e := range r.m {
		e.busy = make(chan struct{})
		delete(r.m, k)
		r.m[[32]byte{0xff, 1}] = e
		break
	}
	// All but the one with a request on its way are over by now, and the newcomer is not, because for it the clock stands earlier.
	r.sweep(time.Now())
	if len(r.m) != 1 {
		t.Errorf("%d entries left, want the one with a request on its way", len(r.m))
	}
	if e := r.entry(over, before); e == nil || len(r.m) != 2 {
		t.Error("no place in a table with room")
	}
	a := &Agent{cfg: Config{Now: func() time.Time { return before }}}
	if r.flights = maxFlights; r.launch(a, &renewal{leaf: over}) {
		t.Error("more requests than allowed are on their way")
	}
}
