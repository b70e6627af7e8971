package hammer

import (
	"strings"
	"testing"
)

func TestDisagreement(t *testing.T) {
	enforced, free := Variant{Name: "x", kind: buffered}, Variant{Name: "y", kind: raw}
	good := result{Calls: 10}
	for _, tt := range []struct {
		name           string
		v              Variant
		res            result
		client, server usage
		want           string
	}{
		{"agrees", enforced, good, usage{Records: 20}, usage{Records: 20, Handled: 10}, ""},
		{"floor agrees", free, good, usage{}, usage{Handled: 10}, ""},
		{"nothing happened", free, result{}, usage{}, usage{}, "no call"},
		{"error", enforced, result{Calls: 10, Errors: 1, FirstErr: "boom"}, usage{Records: 20}, usage{Records: 20, Handled: 10}, "boom"},
		{"call that the handler never saw", free, good, usage{}, usage{Handled: 9}, "9 handled"},
		{"call handled twice", free, good, usage{}, usage{Handled: 11}, "11 handled"},
		{"record missing at the server", enforced, good, usage{Records: 20}, usage{Records: 19, Handled: 10}, "19 at the server"},
		{"record missing at the client", enforced, good, usage{Records: 18}, usage{Records: 20, Handled: 10}, "18 records"},
		{"record too many", enforced, good, usage{Records: 20}, usage{Records: 21, Handled: 10}, "21 at the server"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := disagreement(tt.v, &tt.res, tt.client, tt.server)
			if (got == "") != (tt.want == "") || !strings.Contains(got, tt.want) {
				t.Errorf("disagreement() = %q, want %q", got, tt.want)
			}
		})
	}
}

// sweepOf returns a finished report whose control costs ratio times the floor in every round.
func sweepOf(ratio float64, inFlight ...int) *Report {
	cfg := &Config{Variants: []Variant{{Name: floorName}, {Name: controlName}}, InFlight: inFlight}
	r := &Report{cfg: cfg}
	for n := range 5 {
		for _, f := range inFlight {
			cost := 60 + float64(n)
			r.Rounds = append(r.Rounds,
				&Round{Variant: floorName, InFlight: f, Round: n, CPU: cost, RPS: 1000, P50: 100},
				&Round{Variant: controlName, InFlight: f, Round: n, CPU: cost * ratio, RPS: 1000, P50: 100})
		}
	}
	for _, f := range inFlight {
		for _, v := range cfg.Variants {
			r.Summaries = append(r.Summaries, r.summary(v.Name, f))
		}
	}
	return r
}

func TestCannotJudge(t *testing.T) {
	for _, tt := range []struct {
		name     string
		ratio    float64
		inFlight int
		want     bool
	}{
		{"same", 1, 16, false},
		{"within", 1.14, 16, false},
		{"above", 1.16, 16, true},
		{"below", 0.84, 64, true},
		{"one in flight is never judged", 1.4, 1, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := sweepOf(tt.ratio, tt.inFlight).CannotJudge(); (len(got) == 1) != tt.want {
				t.Errorf("CannotJudge() at %v = %v, want %v", tt.ratio, got, tt.want)
			}
		})
	}
}

func TestSummaryTakesRatiosWithinARound(t *testing.T) {
	r := sweepOf(1.1, 16)
	r.Rounds[1].Invalid, r.Rounds[1].CPU = "an error", 1e6 // the control of the first round
	r.Rounds[2].Invalid, r.Rounds[2].CPU = "an error", 1   // the floor of the second
	s := r.summary(controlName, 16)
	if s.Valid != 3 || s.RatioCPU < 1.09 || s.RatioCPU > 1.11 || s.Low != s.RatioCPU || s.High != s.RatioCPU {
		t.Errorf("summary = %+v, want three rounds with a ratio of 1.1", s)
	}
	if got := len(r.Invalid()); got != 2 {
		t.Errorf("%d invalid rounds, want 2", got)
	}
}

func TestQuantile(t *testing.T) {
	for _, tt := range []struct {
		sorted  []int64
		percent int
		want    int64
	}{
		{nil, 50, 0},
		{[]int64{7}, 99, 7},
		{[]int64{1, 2, 3, 4}, 50, 3},
		{[]int64{1, 2, 3, 4}, 100, 4},
	} {
		if got := quantile(tt.sorted, tt.percent); got != tt.want {
			t.Errorf("quantile(%v, %d) = %d, want %d", tt.sorted, tt.percent, got, tt.want)
		}
	}
}
