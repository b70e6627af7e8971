package intruder

import (
	"math"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	// far is further than clocks of two machines are apart, and than the skew that is allowed.
	far = 2 * time.Minute
	// year2100 is where times of statements end, in milliseconds.
	year2100 = 4102444800000
)

func lifeViolations() []violation {
	expired := []string{"CHAIN_EXPIRED"}
	one := func(name string, change func(*siege, *v1.HopPayload)) func(*siege) ([]shot, error) {
		return func(s *siege) ([]shot, error) {
			return s.each(named{name: name, spoil: spoil{hop: func(h *v1.HopPayload) { change(s, h) }}})
		}
	}
	return []violation{
		{
			Violation: Violation{
				Name: "later-expiry", Row: 11, Want: expired, Causes: []string{"CHAIN_LIFETIME"},
				What: "lets its hop live a millisecond longer than the grant",
			},
			shots: one("a millisecond", func(s *siege, h *v1.HopPayload) { h.ExpiresAtMs = s.grant.GetExpiresAtMs() + 1 }),
		},
		{
			Violation: Violation{
				Name: "earlier-beginning", Row: 12, Want: expired, Causes: []string{"CHAIN_LIFETIME"},
				What: "lets its hop begin a millisecond before the grant",
			},
			shots: one("a millisecond", func(s *siege, h *v1.HopPayload) { h.NotBeforeMs = s.grant.GetNotBeforeMs() - 1 }),
		},
		{
			Violation: Violation{
				Name: "outlives-certificate", Row: 13, Want: expired, Causes: []string{"CHAIN_LIFETIME"},
				What: "lets its hop live longer than the certificate that signs it",
			},
			shots: one("a second", func(s *siege, h *v1.HopPayload) { h.ExpiresAtMs = s.certificateEnd() + time.Second.Milliseconds() }),
			lacks: func(s *siege) string {
				if s.certificateEnd()+time.Second.Milliseconds() > s.grant.GetExpiresAtMs() {
					return "needs a certificate that ends before the grant"
				}
				return ""
			},
		},
		{
			Violation: Violation{
				Name: "impossible-times", Row: 14, Want: expired, Causes: []string{"CHAIN_LIFETIME"},
				What: "writes times that overflow, are zero or negative, or end before they begin",
			},
			shots: impossibleTimes,
		},
		{
			Violation: Violation{
				Name: "out-of-time", Row: 52, Want: expired, Causes: []string{"CHAIN_TIME", "CHAIN_LIFETIME"},
				What: "presents hops that are over, or that begin beyond the allowed skew",
			},
			shots: outOfTime,
		},
	}
}

// certificateEnd is when the own certificate ends, in milliseconds; 0 when there is none.
func (s *siege) certificateEnd() int64 {
	signer, err := s.signer()
	if err != nil {
		return 0
	}
	return signer.NotAfter().UnixMilli()
}

func impossibleTimes(s *siege) ([]shot, error) {
	var spoils []named
	for _, t := range []struct {
		name string
		ms   int64
	}{{"overflow", math.MaxInt64}, {"negative", -1}, {"zero", 0}, {"the year 2100", year2100}} {
		spoils = append(spoils,
			named{name: "expiry: " + t.name, spoil: spoil{hop: func(h *v1.HopPayload) { h.ExpiresAtMs = t.ms }}},
			named{name: "issue: " + t.name, spoil: spoil{hop: func(h *v1.HopPayload) { h.IssuedAtMs = t.ms }}},
		)
	}
	return s.each(append(spoils,
		named{name: "ends before it begins", spoil: spoil{hop: func(h *v1.HopPayload) { h.NotBeforeMs = h.GetExpiresAtMs() + 1 }}},
		named{name: "negative beginning", spoil: spoil{hop: func(h *v1.HopPayload) { h.NotBeforeMs = math.MinInt64 }}},
	)...)
}

func outOfTime(s *siege) ([]shot, error) {
	now := s.at.Now()
	return s.each(
		named{name: "over", spoil: spoil{hop: func(h *v1.HopPayload) {
			h.NotBeforeMs = s.grant.GetNotBeforeMs()
			h.IssuedAtMs = h.GetNotBeforeMs()
			h.ExpiresAtMs = max(now.Add(-far).UnixMilli(), h.GetNotBeforeMs()+1) // a fresh grant leaves no room for more
		}}},
		named{name: "begins later", spoil: spoil{hop: func(h *v1.HopPayload) { h.NotBeforeMs = now.Add(far).UnixMilli() }}},
		named{name: "issued later", spoil: spoil{hop: func(h *v1.HopPayload) { h.IssuedAtMs = now.Add(far).UnixMilli() }}},
	)
}

func depthViolations() []violation {
	invalid, causes := []string{"CHAIN_INVALID"}, []string{"CHAIN_DEPTH", "CHAIN_MALFORMED"}
	depths := func(spoils func(*siege) map[string]func(*v1.HopPayload)) func(*siege) ([]shot, error) {
		return func(s *siege) ([]shot, error) { return s.each(hops(spoils(s))...) }
	}
	return []violation{
		{
			Violation: Violation{
				Name: "beyond-maximum", Row: 15, Want: invalid, Causes: causes,
				What: "goes deeper than the maximum that the hop states",
			},
			shots: depths(func(s *siege) map[string]func(*v1.HopPayload) {
				return map[string]func(*v1.HopPayload){"maximum below the depth": func(h *v1.HopPayload) { h.MaxDepth = h.GetDepth() - 1 }}
			}),
		},
		{
			Violation: Violation{
				Name: "depth-skipped", Row: 16, Want: invalid, Causes: causes,
				What: "counts its hop as deeper, or as none",
			},
			shots: depths(func(s *siege) map[string]func(*v1.HopPayload) {
				return map[string]func(*v1.HopPayload){
					"skipped":  func(h *v1.HopPayload) { h.Depth++; h.MaxDepth = h.GetDepth() },
					"repeated": func(h *v1.HopPayload) { h.Depth--; h.MaxDepth = h.GetDepth() },
					"overflow": func(h *v1.HopPayload) { h.Depth = math.MaxUint32; h.MaxDepth = math.MaxUint32 },
				}
			}),
		},
		{
			Violation: Violation{
				Name: "maximum-raised", Row: 17, Want: invalid, Causes: causes,
				What: "raises the depth that the grant allows",
			},
			shots: depths(func(s *siege) map[string]func(*v1.HopPayload) {
				raise := func(to uint32) func(*v1.HopPayload) {
					return func(h *v1.HopPayload) { h.MaxDepth, h.Delegates = to, s.grant.GetDelegates() }
				}
				return map[string]func(*v1.HopPayload){
					"by one": raise(s.grant.GetMaxDepth() + 1), "beyond the hard cap": raise(9), "overflow": raise(math.MaxUint32),
				}
			}),
		},
	}
}
