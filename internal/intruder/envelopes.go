package intruder

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/interceptors/enforcegrpc"
)

const (
	maxPayload = 1 << 20
	// tooLate and tooEarly are beyond every skew.
	tooLate  = -5 * time.Minute
	tooEarly = 15 * time.Minute
)

func withHeaders(ctx context.Context, headers ...string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, headers...)
}

// envelopeViolation breaks one rule of the envelope in several ways.
func envelopeViolation(name, want, what string, causes []string, spoils func(*siege) map[string]func(*v1.Envelope)) violation {
	return violation{
		Violation: Violation{Name: name, Want: []string{want}, Causes: causes, What: what},
		shots: func(s *siege) ([]shot, error) {
			m := spoils(s)
			var list []named
			for _, n := range slices.Sorted(maps.Keys(m)) {
				list = append(list, named{name: n, spoil: spoil{envelope: m[n]}})
			}
			return s.each(list...)
		},
	}
}

func envelopeViolations() []violation {
	malformed := []string{"MALFORMED"}
	type changes = map[string]func(*v1.Envelope)
	return []violation{
		envelopeViolation("message-id", "MALFORMED", "sends a message without an id of the right length", malformed, func(*siege) changes {
			return changes{
				"none":     func(e *v1.Envelope) { e.Id = nil },
				"15 bytes": func(e *v1.Envelope) { e.Id = random(15) },
				"17 bytes": func(e *v1.Envelope) { e.Id = random(17) },
			}
		}),
		envelopeViolation("past-deadline", "DEADLINE", "sends a message whose time is over", []string{"DEADLINE"}, func(s *siege) changes {
			return changes{"5 minutes ago": func(e *v1.Envelope) { e.DeadlineUnixMs = s.at.Now().Add(tooLate).UnixMilli() }}
		}),
		envelopeViolation("far-deadline", "MALFORMED", "sends a message without a deadline, or with one that outlives the memory of replays", malformed, func(s *siege) changes {
			return changes{
				"none":       func(e *v1.Envelope) { e.DeadlineUnixMs = 0 },
				"negative":   func(e *v1.Envelope) { e.DeadlineUnixMs = -1 },
				"15 minutes": func(e *v1.Envelope) { e.DeadlineUnixMs = s.at.Now().Add(tooEarly).UnixMilli() },
				"overflow":   func(e *v1.Envelope) { e.DeadlineUnixMs = 1<<63 - 1 },
			}
		}),
		envelopeViolation("payload-digest", "DIGEST_MISMATCH", "sends another payload than the digest is of", []string{"DIGEST_MISMATCH"}, func(*siege) changes {
			return changes{
				"another digest": func(e *v1.Envelope) { e.Intent.ArgumentsDigest = random(32) },
				"no digest":      func(e *v1.Envelope) { e.Intent.ArgumentsDigest = nil },
				"more payload":   func(e *v1.Envelope) { e.Payload = append(slices.Clone(e.GetPayload()), 0xfa, 0xff, 1, 0) },
			}
		}),
		envelopeViolation("other-intent", "MALFORMED", "states another action, resource or type than the request is", []string{"MALFORMED", "INTENT_MISMATCH"}, func(s *siege) changes {
			return changes{
				"action":       func(e *v1.Envelope) { e.Intent.Action += ".admin" },
				"no action":    func(e *v1.Envelope) { e.Intent.Action = "" },
				"resource":     func(e *v1.Envelope) { e.Intent.Resource = append(slices.Clone(s.resource), "intruder") },
				"dot dot":      func(e *v1.Envelope) { e.Intent.Resource = append(slices.Clone(s.resource), "..") },
				"payload type": func(e *v1.Envelope) { e.PayloadType = "safeconduct.v1.Envelope" },
				"controls":     func(e *v1.Envelope) { e.Intent.Purpose += "\x1b[2J" },
			}
		}),
		envelopeViolation("wrong-frame", "MALFORMED", "sends a frame that Deliver does not take", malformed, func(*siege) changes {
			return changes{
				"no kind":         func(e *v1.Envelope) { e.Kind = 0 },
				"a reply":         func(e *v1.Envelope) { e.Kind = v1.FrameKind_FRAME_KIND_RESULT },
				"not half closed": func(e *v1.Envelope) { e.HalfClose = false },
				"a later message": func(e *v1.Envelope) { e.Seq = 1 },
				"a status":        func(e *v1.Envelope) { e.Status = []byte{8, 0} },
				"no recipient":    func(e *v1.Envelope) { e.Recipient = "" },
			}
		}),
		envelopeViolation("unknown-extension", "EXTENSION_UNKNOWN", "demands extensions that nobody knows", []string{"EXTENSION_UNKNOWN"}, func(*siege) changes {
			return changes{
				"field 999":   func(e *v1.Envelope) { e.Critical = []uint32{999} },
				"field 0":     func(e *v1.Envelope) { e.Critical = []uint32{0} },
				"nine fields": func(e *v1.Envelope) { e.Critical = slices.Repeat([]uint32{5}, 9) },
			}
		}),
		envelopeViolation("unknown-method", "UNKNOWN_METHOD", "calls a method that is not there", []string{"UNKNOWN_METHOD"}, func(s *siege) changes {
			return changes{
				"of the service":  func(e *v1.Envelope) { e.Method += "Admin" },
				"without a slash": func(e *v1.Envelope) { e.Method = s.path[1:] },
				"none":            func(e *v1.Envelope) { e.Method = "" },
			}
		}),
		weakLabel(),
	}
}

// weakLabel is a violation only where the method asks for some integrity.
func weakLabel() violation {
	v := envelopeViolation("weak-label", "INTEGRITY_TOO_LOW", "calls on the word of an untrusted source, or of nobody", []string{"INTEGRITY_FLOOR"}, func(*siege) map[string]func(*v1.Envelope) {
		return map[string]func(*v1.Envelope){
			"no label":  func(e *v1.Envelope) { e.Control = nil },
			"untrusted": func(e *v1.Envelope) { e.Control.Integrity = v1.Integrity_INTEGRITY_UNTRUSTED },
		}
	})
	v.lacks = func(s *siege) string {
		if s.method.Intent.GetMinIntegrity() == v1.Integrity_INTEGRITY_UNTRUSTED {
			return "the method takes anybody's word"
		}
		return ""
	}
	return v
}

func limitViolations() []violation {
	malformed := []string{"MALFORMED"}
	type changes = map[string]func(*v1.Envelope)
	return []violation{
		envelopeViolation("oversize", "MALFORMED", "sends a payload and other fields beyond their bounds", malformed, func(*siege) changes {
			long := strings.Repeat("a", 1<<10)
			return changes{
				"payload of 1 MiB and a byte": func(e *v1.Envelope) { e.Payload = make([]byte, maxPayload+1) },
				"purpose":                     func(e *v1.Envelope) { e.Intent.Purpose = long },
				"tenant":                      func(e *v1.Envelope) { e.Tenant = long },
				"recipient":                   func(e *v1.Envelope) { e.Recipient = long },
				"resource":                    func(e *v1.Envelope) { e.Intent.Resource = slices.Repeat([]string{"a"}, 18) },
				"time-out":                    func(e *v1.Envelope) { e.TimeoutMs = 1<<32 - 1 },
				"conversation":                func(e *v1.Envelope) { e.Conversation = random(17) },
				"trace":                       func(e *v1.Envelope) { e.Trace = &v1.TraceContext{TraceId: random(1), SpanId: random(1)} },
				"references": func(e *v1.Envelope) {
					e.Context = slices.Repeat([]*v1.ContextRef{{}}, 33)
				},
			}
		}),
		envelopeViolation("metadata-stuffing", "MALFORMED", "stuffs the application metadata", malformed, func(*siege) changes {
			return changes{
				"17 pairs": func(e *v1.Envelope) {
					for i := range 17 {
						e.Metadata = append(e.Metadata, &v1.Pair{Key: fmt.Sprintf("k%d", i)})
					}
				},
				"over 1 KiB": func(e *v1.Envelope) { e.Metadata = []*v1.Pair{{Key: "k", Value: make([]byte, 1<<10)}} },
			}
		}),
	}
}

func guardViolations() []violation {
	return []violation{
		{
			Violation: Violation{
				Name: "bare-call", Want: []string{"NO_ENVELOPE"}, Causes: []string{"NO_ENVELOPE"},
				What: "calls the service as plain gRPC, without an envelope",
			},
			lacks: lackGuarded,
			run: guarded([]string{"NO_ENVELOPE"}, map[string]guardedCall{
				"nothing":        {},
				"a bearer token": {headers: func(s *siege) []string { return []string{"authorization", "Bearer " + forgedJWT(s)} }},
			}),
		},
		{
			Violation: Violation{
				Name: "envelope-in-headers", Want: []string{"MALFORMED", "LIMIT"}, Causes: []string{"MALFORMED", "LIMIT"},
				What: "sends headers that hold an envelope of another method, garbage, or too much",
			},
			lacks: lackGuarded,
			run: guarded([]string{"MALFORMED", "LIMIT"}, map[string]guardedCall{
				"another method": {change: func(e *v1.Envelope) { e.Method += "Admin" }},
				"a payload":      {change: func(e *v1.Envelope) { e.Payload = []byte("x") }},
				"garbage":        {headers: func(*siege) []string { return []string{enforcegrpc.EnvelopeKey, "\xff\xff\xff"} }},
				"over 4 KiB":     {headers: func(*siege) []string { return []string{enforcegrpc.EnvelopeKey, string(make([]byte, 4097))} }},
			}),
		},
	}
}

// lackGuarded is for methods that travel by Deliver only.
func lackGuarded(s *siege) string {
	if in := s.method.Intent; in.GetRequireProof() || in.GetSignedReceipt() {
		return "a method with proofs or receipts is not served as guarded gRPC"
	}
	return ""
}

// guardedCall is a typed call with a spoilt envelope in its headers, or with other headers and none.
type guardedCall struct {
	change  func(*v1.Envelope)
	headers func(*siege) []string
}

// guarded makes typed calls after a control of that route.
func guarded(want []string, calls map[string]guardedCall) func(context.Context, *siege, *grpc.ClientConn) ([]Step, string, error) {
	return func(ctx context.Context, s *siege, cc *grpc.ClientConn) ([]Step, string, error) {
		chain, err := s.chainOf(spoil{})
		if err != nil {
			return nil, "", err
		}
		if a := s.typed(ctx, cc, s.guard(chain), nil); !a.admitted() {
			return nil, "", fmt.Errorf("%w: as guarded gRPC: %s", errControl, a)
		}
		var steps []Step
		for _, name := range slices.Sorted(maps.Keys(calls)) {
			call := calls[name]
			var env *v1.Envelope
			var headers []string
			if call.change != nil {
				env = s.guard(chain)
				call.change(env)
			}
			if call.headers != nil {
				headers = call.headers(s)
			}
			steps = append(steps, step(name, s.typed(ctx, cc, env, want, headers...), want))
		}
		return steps, "", nil
	}
}
