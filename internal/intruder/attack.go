package intruder

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// attackTimeout bounds one attack: a few handshakes and calls.
const attackTimeout = 10 * time.Second

// Attack is one way to break in. Want is the wire reason that the receiver must refuse it with.
type Attack struct {
	Name string `json:"name"`
	Want string `json:"want"`
	What string `json:"what"` // one sentence for a reader

	needs []need
	run   func(context.Context, *intruder) (finding, error)
	waits bool // for time to pass, so it runs beside the others
}

// Result is how one attack went.
type Result struct {
	Attack string `json:"attack"`
	// Want and Got are wire reasons. Got also is ADMITTED, or the code of an answer that is no refusal by the mesh; it is empty
	// when the twin was not admitted.
	Want string `json:"want"`
	Got  string `json:"got"`
	// TwinAdmitted says that the same call without the attack passes, and TwinError why not.
	TwinAdmitted bool   `json:"twin_admitted"`
	TwinError    string `json:"twin_error,omitempty"`
	// DecisionID names the record in the receiver's audit log, in hexadecimal; empty when the receiver could not tell.
	DecisionID string `json:"decision_id,omitempty"`
	// Took is in nanoseconds in JSON.
	Took time.Duration `json:"took"`
	// Refused is the verdict: the twin was admitted and every step of the attack was refused with Want.
	Refused bool `json:"refused"`
	// Inconclusive says that the attack was not put to the test: the twin was not admitted, or the receiver was unavailable,
	// failed or did not answer in time. It excludes Refused.
	Inconclusive bool   `json:"inconclusive"`
	Note         string `json:"note,omitempty"`
}

// intruder is one run.
type intruder struct{ cfg Config }

// Run makes the named attacks, all when none is named, and returns their results in the order of the names, or of Attacks. It
// checks all inputs before it sends anything; what is missing is an error that wraps ErrInput. Errors of single attacks, which
// are the intruder's own failures, are joined, and their results are Inconclusive. The time is bounded: about 10 s for one attack.
func Run(ctx context.Context, cfg Config, names ...string) ([]Result, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	picked, err := pick(names)
	if err != nil {
		return nil, err
	}
	for _, a := range picked {
		for _, n := range a.needs {
			if err := n(&cfg); err != nil {
				return nil, fmt.Errorf("%s: %w", a.Name, err)
			}
		}
	}
	x := &intruder{cfg: cfg}
	results, errs := make([]Result, len(picked)), make([]error, len(picked))
	var waiting sync.WaitGroup
	for i, a := range picked {
		if a.waits {
			waiting.Go(func() { results[i], errs[i] = x.make(ctx, a) })
		}
	}
	for i, a := range picked {
		if !a.waits {
			results[i], errs[i] = x.make(ctx, a)
		}
	}
	waiting.Wait()
	return results, errors.Join(append(errs, ctx.Err())...)
}

// pick finds attacks by name.
func pick(names []string) ([]Attack, error) {
	all := Attacks()
	if len(names) == 0 {
		return all, nil
	}
	picked := make([]Attack, 0, len(names))
	for _, name := range names {
		i := slices.IndexFunc(all, func(a Attack) bool { return a.Name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: no attack %q", ErrInput, name)
		}
		picked = append(picked, all[i])
	}
	return picked, nil
}

func (x *intruder) make(ctx context.Context, a Attack) (Result, error) {
	ctx, cancel := context.WithTimeout(ctx, attackTimeout)
	defer cancel()
	started := time.Now()
	f, err := a.run(ctx, x)
	r := Result{Attack: a.Name, Want: a.Want, Took: time.Since(started)}
	if err != nil {
		r.Inconclusive, r.Note = true, err.Error()
		return r, fmt.Errorf("%s: %w", a.Name, err)
	}
	r.judge(f)
	return r, nil
}
