package hammer

import (
	"slices"
	"sync"
	"time"
)

// call is one request and its reply.
type call func() error

// maxFailures ends a caller whose calls all fail, so that a dead server does not spin.
const maxFailures = 100

// load keeps r.InFlight callers busy for a spell. fresh is called once for each of them.
func load(r *runSpec, fresh func() call) *result {
	type tally struct {
		took   []int64
		errors uint64
		first  error
	}
	tallies := make([]tally, r.InFlight)
	calls := make([]call, r.InFlight)
	for i := range calls {
		calls[i] = fresh()
		tallies[i].took = make([]int64, 0, 1<<12)
	}
	begin := time.Now()
	end := begin.Add(time.Duration(r.DurationNs))
	var wg sync.WaitGroup
	for i := range calls {
		wg.Go(func() {
			t := &tallies[i]
			for at := time.Now(); at.Before(end) && t.errors < maxFailures; {
				if err := calls[i](); err != nil {
					t.errors++
					if t.first == nil {
						t.first = err
					}
				}
				now := time.Now()
				t.took = append(t.took, int64(now.Sub(at)))
				at = now
			}
		})
	}
	wg.Wait()
	out := &result{ElapsedNs: int64(time.Since(begin))}
	var all []int64
	for _, t := range tallies {
		out.Calls += uint64(len(t.took))
		out.Errors += t.errors
		all = append(all, t.took...)
		if t.first != nil && out.FirstErr == "" {
			out.FirstErr = t.first.Error()
		}
	}
	slices.Sort(all)
	out.P50Ns, out.P99Ns = quantile(all, 50), quantile(all, 99)
	return out
}

// quantile returns the value below which percent of the sorted values lie, 0 for none.
func quantile(sorted []int64, percent int) int64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(len(sorted)*percent/100, len(sorted)-1)]
}
