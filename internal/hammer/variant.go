package hammer

import (
	"fmt"
	"slices"
	"strings"
)

// kind is what a variant sends and who answers.
type kind string

const (
	// raw is a generated client and server over grpc-go, with mTLS and nothing else.
	raw kind = "raw"
	// envelope is raw with the request inside an Envelope that carries chain, labels and references. Nobody checks any of it.
	envelope kind = "envelope"
	// lean is envelope as the runtime sends it once the callee knows the chain: by reference, and with the codec of the hot path.
	lean kind = "lean"
	// buffered is runtime.Conn and runtime.Agent with all checks on, for a method that declares AUDIT_CLASS_BUFFERED.
	buffered kind = "buffered"
	// durable is buffered for a method of AUDIT_CLASS_DURABLE_BEFORE_EFFECT, which a method has that declares none.
	durable kind = "durable"
)

// enforced reports whether the calls of a kind pass the enforcement core.
func (k kind) enforced() bool { return k == buffered || k == durable }

// Variant is one thing that is measured.
type Variant struct {
	Name string
	kind kind
	hops int
	// failEvery makes the handler fail each n-th call, to show that such a round is not counted.
	failEvery uint64
}

// Names of the floor, which is measured twice.
const (
	floorName   = "floor"
	controlName = "floor-again"
)

// Variants returns all variants that a sweep knows, in the order of its table.
func Variants() []Variant {
	return []Variant{
		{Name: floorName, kind: raw},
		{Name: controlName, kind: raw},
		{Name: "envelope-unchecked", kind: envelope, hops: 3},
		{Name: "reference-unchecked", kind: lean, hops: 3},
		{Name: "deliver-1-hop", kind: buffered, hops: 1},
		{Name: "deliver-3-hops", kind: buffered, hops: 3},
		{Name: "deliver-5-hops", kind: buffered, hops: 5},
		{Name: "deliver-8-hops", kind: buffered, hops: 8},
		{Name: "deliver-3-hops-durable", kind: durable, hops: 3},
	}
}

// Failing returns a variant of deliver-1-hop whose handler fails each n-th call: no round of it may count.
func Failing(n uint64) Variant {
	return Variant{Name: "deliver-1-hop-failing", kind: buffered, hops: 1, failEvery: n}
}

// pick returns the named variants; the floor and its control are always among them.
func pick(names string) ([]Variant, error) {
	all := Variants()
	if names == "" {
		return all, nil
	}
	want := append(strings.Split(names, ","), floorName, controlName)
	for _, n := range want {
		if !slices.ContainsFunc(all, func(v Variant) bool { return v.Name == n }) {
			return nil, fmt.Errorf("no variant %q", n)
		}
	}
	return slices.DeleteFunc(all, func(v Variant) bool { return !slices.Contains(want, v.Name) }), nil
}
