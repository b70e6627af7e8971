package logs

import (
	_ "embed"
	"strings"
)

//go:embed sample/access.log
var sampleAccess string

// SampleCanary stands on one evidence line of the sample and nowhere else, so
// that a test can see where that line has got to.
const SampleCanary = "/canary-7f3a9c-evidence"

// SampleName is the name that a report gives the sample.
const SampleName = "sample/access.log"

// Sample returns a reader of the access log that ships with the example.
func Sample() *strings.Reader { return strings.NewReader(sampleAccess) }
