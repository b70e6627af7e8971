package hammer

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// pair is the two processes of a variant.
type pair struct {
	v              Variant
	server, client *process
}

// Round is one variant's turn.
type Round struct {
	Variant  string  `json:"variant"`
	InFlight int     `json:"in_flight"`
	Round    int     `json:"round"`
	Calls    uint64  `json:"calls"`
	Errors   uint64  `json:"errors"`
	RPS      float64 `json:"rps"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	CPU      float64 `json:"cpu_us_per_call"`
	Client   float64 `json:"cpu_us_per_call_client"`
	Server   float64 `json:"cpu_us_per_call_server"`
	Allocs   float64 `json:"allocs_per_call"`
	Bytes    float64 `json:"bytes_per_call"`
	Request  int     `json:"request_bytes,omitempty"`
	// Invalid is why the round counts for nothing, empty when it counts.
	Invalid string `json:"invalid,omitempty"`

	// seqs are the records that the round left in each log, for the count at the end.
	clientSeqs, serverSeqs [2]uint64
}

// Run runs a sweep. Its error is about the sweep itself; rounds that do not count are in the report.
func Run(ctx context.Context, cfg Config) (_ *Report, err error) {
	cfg, err = cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	dir, fs, err := pickDir(cfg.Dir)
	if err != nil {
		return nil, err
	}
	w, err := openWorld(ctx, dir, cfg.Variants)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, w.close()) }() // what was opened is closed whether or not ctx has ended.
	rep := newReport(&cfg, fs)
	if err := rep.line("setup", rep.Setup); err != nil {
		return nil, err
	}
	pairs, err := w.start(ctx, &cfg)
	if err == nil {
		err = rounds(ctx, &cfg, w, pairs, rep)
	}
	for _, p := range pairs {
		err = errors.Join(err, p.stop())
	}
	if err != nil {
		return nil, err
	}
	for _, p := range pairs {
		if err := recount(p, rep.Rounds); err != nil {
			return nil, err
		}
	}
	rep.Setup.LoadAfter = loadAverage()
	return rep, rep.finish()
}

// pickDir finds a folder that lies on a disk.
func pickDir(dir string) (path, fs string, err error) {
	candidates := []string{dir}
	if dir == "" {
		candidates = []string{os.TempDir(), "."}
	}
	for _, c := range candidates {
		name, memory, err := fileSystemOf(c)
		if err != nil {
			return "", "", err
		}
		if !memory {
			return c, name, nil
		}
	}
	return "", "", fmt.Errorf("%v lies in memory: audit logs must be measured on a disk; name another folder", candidates)
}

// start starts all processes; on an error the pairs that run are returned too.
func (w *world) start(ctx context.Context, cfg *Config) ([]*pair, error) {
	var pairs []*pair
	for _, v := range cfg.Variants {
		s := startSpec{Kind: v.kind, Hops: v.hops, FailEvery: v.failEvery, Payload: cfg.Payload, Peer: agentID(v.agent(roleServer))}
		p := &pair{v: v}
		pairs = append(pairs, p)
		for _, role := range []string{roleServer, roleClient} {
			s.Role = role
			if cfg.Profiles != "" {
				s.Profile = filepath.Join(cfg.Profiles, v.agent(role))
			}
			child, err := w.spawn(ctx, cfg, v.agent(role), &s)
			if err != nil {
				return pairs, err
			}
			if role == roleServer {
				p.server, s.Address = child, child.address
			} else {
				p.client = child
			}
		}
	}
	return pairs, nil
}

func (p *pair) stop() error {
	var err error
	for _, c := range []*process{p.client, p.server} {
		if c != nil {
			err = errors.Join(err, c.stop())
		}
	}
	return err
}

// rounds lets every variant work once in each round and at each number of calls in flight, in random order.
func rounds(ctx context.Context, cfg *Config, w *world, pairs []*pair, rep *Report) error {
	for n := range cfg.Rounds {
		for _, inFlight := range cfg.InFlight {
			order, err := shuffled(pairs)
			if err != nil {
				return err
			}
			for _, p := range order {
				r, err := p.round(ctx, cfg, w, inFlight)
				if err != nil {
					return err
				}
				r.Round = n + 1
				rep.Rounds = append(rep.Rounds, r)
				_, err = fmt.Fprintf(cfg.Progress, "round %d/%d, %d in flight, %s: %.0f calls/s, %.1f us of processor per call %s\n",
					r.Round, cfg.Rounds, inFlight, r.Variant, r.RPS, r.CPU, r.Invalid)
				if err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// round runs one variant: a spell to warm up with a chain that is new, then the measured spell.
func (p *pair) round(ctx context.Context, cfg *Config, w *world, inFlight int) (*Round, error) {
	m, err := w.mandate(ctx, p.v)
	if err != nil {
		return nil, err
	}
	spell := &runSpec{InFlight: inFlight, DurationNs: int64(cfg.Warmup), Mandate: m}
	if _, err := p.client.order(&order{Do: doRun, Run: spell}); err != nil {
		return nil, err
	}
	before, err := p.usage()
	if err != nil {
		return nil, err
	}
	spell.DurationNs = int64(cfg.Duration)
	a, err := p.client.order(&order{Do: doRun, Run: spell})
	if err != nil {
		return nil, err
	}
	after, err := p.usage()
	if err != nil {
		return nil, err
	}
	return newRound(p.v, inFlight, a.Result, before, after), nil
}

// usage is that of client and server, in this order.
func (p *pair) usage() (out [2]usage, err error) {
	for i, c := range []*process{p.client, p.server} {
		if out[i], err = c.usage(); err != nil {
			return out, err
		}
	}
	return out, nil
}

func newRound(v Variant, inFlight int, res *result, before, after [2]usage) *Round {
	client, server := after[0].since(before[0]), after[1].since(before[1])
	calls := max(float64(res.Calls), 1)
	r := &Round{
		Variant: v.Name, InFlight: inFlight, Calls: res.Calls, Errors: res.Errors, Request: res.Request,
		RPS: float64(res.Calls) / time.Duration(res.ElapsedNs).Seconds(), P50: float64(res.P50Ns) / 1e3, P99: float64(res.P99Ns) / 1e3,
		Client: float64(client.CPUNs) / 1e3 / calls, Server: float64(server.CPUNs) / 1e3 / calls,
		Allocs: float64(client.Allocs+server.Allocs) / calls, Bytes: float64(client.Bytes+server.Bytes) / calls,
		clientSeqs: [2]uint64{before[0].Records, after[0].Records}, serverSeqs: [2]uint64{before[1].Records, after[1].Records},
	}
	r.CPU = r.Client + r.Server
	r.Invalid = disagreement(v, res, client, server)
	return r
}

// recordsPerCall are an intent and an outcome.
const recordsPerCall = 2

// disagreement says why the counters of a round do not add up, empty when they do.
func disagreement(v Variant, res *result, client, server usage) string {
	want := uint64(0)
	if v.kind.enforced() {
		want = recordsPerCall * res.Calls
	}
	switch {
	case res.Calls == 0:
		return "no call ended"
	case res.Errors > 0:
		return fmt.Sprintf("%d errors, the first: %s", res.Errors, res.FirstErr)
	case server.Handled != res.Calls:
		return fmt.Sprintf("%d calls sent, %d handled", res.Calls, server.Handled)
	case client.Records != want || server.Records != want:
		return fmt.Sprintf("%d calls, %d records at the client and %d at the server, want %d", res.Calls, client.Records, server.Records, want)
	}
	return ""
}

// recount reads the logs of a pair from disk and holds the outcomes of each round against its calls.
func recount(p *pair, all []*Round) error {
	if !p.v.kind.enforced() {
		return nil
	}
	for _, side := range []struct {
		dir       string
		direction v1.EventDirection
		seqs      func(*Round) [2]uint64
	}{
		{p.client.audit, v1.EventDirection_EVENT_DIRECTION_OUTBOUND, func(r *Round) [2]uint64 { return r.clientSeqs }},
		{p.server.audit, v1.EventDirection_EVENT_DIRECTION_INBOUND, func(r *Round) [2]uint64 { return r.serverSeqs }},
	} {
		counts := map[*Round]uint64{}
		for rec, err := range audit.ReadDir(side.dir) {
			if err != nil {
				return fmt.Errorf("reading the log of %s: %w", p.v.Name, err)
			}
			ev := rec.Event
			if ev.GetDirection() != side.direction || ev.GetPhase() != v1.EventPhase_EVENT_PHASE_OUTCOME ||
				ev.GetDecision() != v1.EventDecision_EVENT_DECISION_ALLOW || ev.GetOutcome().GetCode() != 0 {
				continue
			}
			for _, r := range all {
				if s := side.seqs(r); r.Variant == p.v.Name && s[0] <= rec.Seq && rec.Seq < s[1] {
					counts[r]++
				}
			}
		}
		for _, r := range all {
			if r.Variant == p.v.Name && r.Invalid == "" && counts[r] != r.Calls {
				r.Invalid = fmt.Sprintf("%d calls, %d outcomes without an error in the %s log", r.Calls, counts[r], side.direction)
			}
		}
	}
	return nil
}

// shuffled returns the pairs in random order: a fixed one would measure what comes before.
func shuffled(pairs []*pair) ([]*pair, error) {
	out := append([]*pair{}, pairs...)
	for i := len(out) - 1; i > 0; i-- {
		j, err := rand.Int(rand.Reader, big.NewInt(int64(i+1)))
		if err != nil {
			return nil, err
		}
		out[i], out[j.Int64()] = out[j.Int64()], out[i]
	}
	return out, nil
}
