package logs

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// marked returns the members of times (ascending) that lie in some window of
// the given length with at least n members.
func marked(times []time.Time, window time.Duration, n int) []bool {
	out := make([]bool, len(times))
	from, done := 0, 0
	for i := range times {
		for times[i].Sub(times[from]) > window {
			from++
		}
		if i-from+1 < n {
			continue
		}
		for j := max(from, done); j <= i; j++ {
			out[j] = true
		}
		done = i + 1
	}
	return out
}

// byTime returns the indexes in order of time: servers write a line when the
// request ends.
func (l *Log) byTime(idx []int) ([]int, []time.Time) {
	idx = slices.Clone(idx)
	slices.SortStableFunc(idx, func(a, b int) int { return l.access[a].at.Compare(l.access[b].at) })
	times := make([]time.Time, len(idx))
	for i, x := range idx {
		times[i] = l.access[x].at
	}
	return idx, times
}

// peak is the largest number of members in one window.
func peak(times []time.Time, window time.Duration) int {
	best, from := 0, 0
	for i := range times {
		for times[i].Sub(times[from]) > window {
			from++
		}
		best = max(best, i-from+1)
	}
	return best
}

func (l *Log) findFloods(clients []*clientStats) []Finding {
	if len(clients) <= FloodOthers {
		return nil
	}
	peaks := make([]int, len(clients))
	for i, c := range clients {
		_, times := l.byTime(c.all)
		peaks[i] = peak(times, FloodWindow)
	}
	sorted := slices.Clone(peaks)
	slices.Sort(sorted)
	var fs []Finding
	for i, c := range clients {
		a, err := netip.ParseAddr(c.client)
		if peaks[i] < FloodMin || err == nil && a.IsLoopback() {
			continue
		}
		median := medianWithout(sorted, peaks[i])
		if peaks[i] < FloodFactor*median {
			continue
		}
		idx, times := l.byTime(c.all)
		var hot []int
		for j, m := range marked(times, FloodWindow, FloodMin) {
			if m {
				hot = append(hot, idx[j])
			}
		}
		slices.Sort(hot)
		fs = append(fs, l.clientFinding(KindFlood, Medium, c, hot, fmt.Sprintf(
			"Up to %d requests a minute; the median of the other clients is %d.", peaks[i], median)))
	}
	return fs
}

// medianWithout is the median of a sorted list with one member left out.
func medianWithout(sorted []int, member int) int {
	i := slices.Index(sorted, member)
	rest := slices.Delete(slices.Clone(sorted), i, i+1)
	return rest[len(rest)/2]
}

func (l *Log) findServerErrors() []Finding {
	all := make([]int, 0, len(l.access))
	var errs []int
	for i := range l.access {
		all = append(all, i)
		if l.access[i].status/100 == 5 {
			errs = append(errs, i)
		}
	}
	if len(errs) < BurstMin {
		return nil
	}
	_, allTimes := l.byTime(all)
	errs, times := l.byTime(errs)
	inBurst := make([]bool, len(errs))
	from := 0
	for i := range errs {
		for times[i].Sub(times[from]) > BurstWindow {
			from++
		}
		lo, _ := slices.BinarySearchFunc(allTimes, times[from], time.Time.Compare)
		hi, _ := slices.BinarySearchFunc(allTimes, times[i].Add(1), time.Time.Compare)
		n := i - from + 1
		if n >= BurstMin && n*100 >= BurstPercent*(hi-lo) {
			for j := i; j >= from && !inBurst[j]; j-- {
				inBurst[j] = true
			}
		}
	}
	return l.serverErrorFindings(errs, times, inBurst)
}

func (l *Log) serverErrorFindings(errs []int, times []time.Time, inBurst []bool) []Finding {
	var fs []Finding
	var burst, other []int
	var last time.Time
	flush := func() {
		if len(burst) > 0 {
			fs = append(fs, l.burstFinding(burst))
		}
		burst = nil
	}
	for i, x := range errs {
		if !inBurst[i] {
			other = append(other, x)
			continue
		}
		if times[i].Sub(last) > BurstWindow {
			flush()
		}
		burst, last = append(burst, x), times[i]
	}
	flush()
	if len(other) >= ServerErrorMin {
		fs = append(fs, Finding{
			Kind: KindServerErrors, Severity: Low, Subject: join(l.topPaths(other), 1), all: l.numbers(other),
			Summary: fmt.Sprintf("%s of %d were answered with 5xx outside of bursts.", plural(len(other), "request"), len(l.access)),
		})
	}
	return fs
}

func (l *Log) burstFinding(idx []int) Finding {
	first, last := &l.access[idx[0]], &l.access[idx[len(idx)-1]]
	sev := Medium
	if len(idx) >= 10*BurstMin {
		sev = High
	}
	clients := map[string]bool{}
	for _, i := range idx {
		clients[l.access[i].client] = true
	}
	return Finding{
		Kind: KindErrorBurst, Severity: sev, Subject: join(l.topPaths(idx), 1), Excerpt: Escape(first.request, maxExcerpt),
		Summary: fmt.Sprintf("%s answered with 5xx from %s in %d seconds from %s: the server failed.", plural(len(idx), "request"),
			plural(len(clients), "client"), int(last.at.Sub(first.at).Seconds())+1, first.at.Format("2006-01-02 15:04:05 -0700")),
		all: l.numbers(idx),
	}
}

// findGarbage reports requests that are not HTTP. An empty request is a
// client that connected and said nothing, which browsers do.
func (l *Log) findGarbage() []Finding {
	var idx []int
	for i := range l.access {
		if e := &l.access[i]; e.method == "" && e.request != "-" && e.request != "" {
			idx = append(idx, i)
		}
	}
	if len(idx) < GarbageMin {
		return nil
	}
	return []Finding{{
		Kind: KindGarbage, Severity: Low, Subject: plural(len(idx), "request"), all: l.numbers(idx),
		Excerpt: Escape(l.access[idx[0]].request, maxExcerpt),
		Summary: fmt.Sprintf("%s not HTTP: other protocols tried on the web port.", plural(len(idx), "request")),
	}}
}

// findMissing reports a client that keeps asking for what is not there. That
// is not an attack, so no rule is proposed.
func (l *Log) findMissing(c *clientStats) *Finding {
	var idx []int
	for _, i := range c.refused {
		if l.access[i].status == 404 {
			idx = append(idx, i)
		}
	}
	if len(idx) < ClientNotFoundMin || len(idx)*2 < len(c.all) {
		return nil
	}
	f := l.clientFinding(KindNotFoundShare, Low, c, idx, fmt.Sprintf(
		"%s of %d were answered with 404, most for %s.", plural(len(idx), "request"), len(c.all), l.topPaths(idx)[0]))
	f.Stoppable = false
	return &f
}

// findNotFound reports a high share of 404 that no scan explains.
func (l *Log) findNotFound(found []Finding) []Finding {
	known := map[int]bool{}
	for i := range found {
		for _, n := range found[i].all {
			known[n] = true
		}
	}
	var idx []int
	for i := range l.access {
		if l.access[i].status == 404 && !known[l.access[i].no] {
			idx = append(idx, i)
		}
	}
	if len(idx) < NotFoundMin || len(idx)*100 < NotFoundPercent*len(l.access) {
		return nil
	}
	return []Finding{{
		Kind: KindNotFoundShare, Severity: Low, Subject: join(l.topPaths(idx), 1), all: l.numbers(idx),
		Summary: fmt.Sprintf("%s of %d were answered with 404 outside of scans: a broken link or a missing file.",
			plural(len(idx), "request"), len(l.access)),
	}}
}
