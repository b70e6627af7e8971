package hammer

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
)

// MaxControl is how far the processor time of the control may lie from that of the floor before a sweep says nothing.
const MaxControl = 0.15

// Setup is what a sweep ran on and with.
type Setup struct {
	OS         string  `json:"os"`
	Arch       string  `json:"arch"`
	CPU        string  `json:"cpu"`
	CPUs       int     `json:"cpus"`
	Go         string  `json:"go"`
	Program    string  `json:"program_sha256"`
	FileSystem string  `json:"audit_file_system"`
	Rounds     int     `json:"rounds"`
	Duration   string  `json:"duration"`
	Payload    int     `json:"payload_bytes"`
	TableRows  int     `json:"table_rows"`
	BudgetRate float64 `json:"budget_calls_per_s"`
	BudgetOpen int64   `json:"budget_in_flight"`
	Profiled   bool    `json:"profiled"`
	LoadBefore string  `json:"load_before"`
	LoadAfter  string  `json:"load_after,omitempty"`
}

// Summary is one variant at one number of calls in flight: medians over the rounds that count. Ratios are taken per round,
// against the floor of the same round.
type Summary struct {
	Variant  string  `json:"variant"`
	InFlight int     `json:"in_flight"`
	Valid    int     `json:"valid_rounds"`
	RPS      float64 `json:"rps"`
	P50      float64 `json:"p50_us"`
	P99      float64 `json:"p99_us"`
	CPU      float64 `json:"cpu_us_per_call"`
	Allocs   float64 `json:"allocs_per_call"`
	Bytes    float64 `json:"bytes_per_call"`
	RatioCPU float64 `json:"cpu_ratio"`
	RatioRPS float64 `json:"rps_ratio"`
	RatioP50 float64 `json:"p50_ratio"`
	// Low and High are the quartiles of the ratio of processor time.
	Low  float64 `json:"cpu_ratio_low"`
	High float64 `json:"cpu_ratio_high"`
}

// Report is a finished sweep.
type Report struct {
	Setup     Setup
	Rounds    []*Round
	Summaries []Summary
	cfg       *Config
}

func newReport(cfg *Config, fs string) *Report {
	return &Report{cfg: cfg, Setup: Setup{
		OS: runtime.GOOS, Arch: runtime.GOARCH, CPU: cpuModel(), CPUs: runtime.NumCPU(), Go: runtime.Version(), Program: digest(cfg.Exe),
		FileSystem: fs, Rounds: cfg.Rounds, Duration: cfg.Duration.String(), Payload: cfg.Payload, TableRows: tableRows,
		BudgetRate: Budget().Rate, BudgetOpen: Budget().InFlight, Profiled: cfg.Profiles != "", LoadBefore: loadAverage(),
	}}
}

// line writes one JSON line.
func (r *Report) line(name string, v any) error {
	raw, err := json.Marshal(map[string]any{name: v})
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(r.cfg.Lines, "%s\n", raw)
	return err
}

// finish sums up and writes the lines of rounds and summaries.
func (r *Report) finish() error {
	for _, n := range r.cfg.InFlight {
		for _, v := range r.cfg.Variants {
			r.Summaries = append(r.Summaries, r.summary(v.Name, n))
		}
	}
	for _, x := range r.Rounds {
		if err := r.line("round", x); err != nil {
			return err
		}
	}
	for _, s := range r.Summaries {
		if err := r.line("summary", s); err != nil {
			return err
		}
	}
	return r.line("end", map[string]any{"load": r.Setup.LoadAfter, "invalid_rounds": len(r.Invalid()), "cannot_judge": r.CannotJudge()})
}

// find returns the rounds of one variant that count, by number.
func (r *Report) find(variant string, inFlight int) map[int]*Round {
	out := map[int]*Round{}
	for _, x := range r.Rounds {
		if x.Variant == variant && x.InFlight == inFlight && x.Invalid == "" {
			out[x.Round] = x
		}
	}
	return out
}

func (r *Report) summary(variant string, inFlight int) Summary {
	floor, own := r.find(floorName, inFlight), r.find(variant, inFlight)
	s := Summary{Variant: variant, InFlight: inFlight}
	over := func(value func(x *Round) float64) float64 {
		var all []float64
		for _, x := range own {
			all = append(all, value(x))
		}
		return at(all, 50)
	}
	s.RPS, s.P50, s.P99 = over(func(x *Round) float64 { return x.RPS }), over(func(x *Round) float64 { return x.P50 }), over(func(x *Round) float64 { return x.P99 })
	s.CPU, s.Allocs = over(func(x *Round) float64 { return x.CPU }), over(func(x *Round) float64 { return x.Allocs })
	s.Bytes = over(func(x *Round) float64 { return x.Bytes })
	var cpu, rps, p50 []float64
	for n, x := range own {
		if f := floor[n]; f != nil {
			s.Valid++
			cpu, rps, p50 = append(cpu, x.CPU/f.CPU), append(rps, x.RPS/f.RPS), append(p50, x.P50/f.P50)
		}
	}
	s.RatioCPU, s.RatioRPS, s.RatioP50, s.Low, s.High = at(cpu, 50), at(rps, 50), at(p50, 50), at(cpu, 25), at(cpu, 75)
	return s
}

// at returns the value at a percentage of the sorted values, 0 for none.
func at(values []float64, percent int) float64 {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[(len(values)-1)*percent/100]
}

// Invalid returns the rounds that do not count.
func (r *Report) Invalid() []*Round {
	return slices.DeleteFunc(slices.Clone(r.Rounds), func(x *Round) bool { return x.Invalid == "" })
}

// CannotJudge returns the numbers of calls in flight at which the control lies too far from the floor. One call in flight
// measures wake-ups more than work and is never judged.
func (r *Report) CannotJudge() []int {
	var out []int
	for _, s := range r.Summaries {
		off := s.RatioCPU < 1-MaxControl || s.RatioCPU > 1+MaxControl
		if s.Variant == controlName && s.InFlight > 1 && off {
			out = append(out, s.InFlight)
		}
	}
	return out
}

// Table writes the summaries for a person.
func (r *Report) Table(w io.Writer) error {
	s := r.Setup
	var b strings.Builder
	fmt.Fprintf(&b, "%d rounds of %s, %d B payload, %s, %d processors (%s), audit logs on %s, load %s before and %s after\n",
		s.Rounds, s.Duration, s.Payload, s.Go, s.CPUs, s.CPU, s.FileSystem, s.LoadBefore, s.LoadAfter)
	t := tabwriter.NewWriter(&b, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, "in flight\tvariant\tCPU ratio\tquartiles\tRPS ratio\tp50 ratio\tCPU us/call\tcalls/s\tp50 us\tp99 us\tallocs/call\tB/call\trounds") //nolint:errcheck // a Builder takes everything.
	for _, x := range r.Summaries {
		fmt.Fprintf(t, "%d\t%s\t%.2f\t%.2f-%.2f\t%.2f\t%.2f\t%.1f\t%.0f\t%.0f\t%.0f\t%.0f\t%.0f\t%d\n", //nolint:errcheck // a Builder takes everything.
			x.InFlight, x.Variant, x.RatioCPU, x.Low, x.High, x.RatioRPS, x.RatioP50, x.CPU, x.RPS, x.P50, x.P99, x.Allocs, x.Bytes, x.Valid)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for _, x := range r.Invalid() {
		fmt.Fprintf(&b, "invalid: round %d of %s at %d in flight: %s\n", x.Round, x.Variant, x.InFlight, x.Invalid)
	}
	for _, n := range r.CannotJudge() {
		fmt.Fprintf(&b, "cannot judge %d in flight: the floor beside itself is off by more than %.0f %%\n", n, MaxControl*100)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// cpuModel and loadAverage are for the record; where there is no /proc they are unknown.
func cpuModel() string {
	raw, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(raw)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return "unknown"
}

func loadAverage() string {
	raw, err := os.ReadFile("/proc/loadavg")
	first, _, ok := strings.Cut(string(raw), " ")
	if err != nil || !ok {
		return "unknown"
	}
	return first
}
