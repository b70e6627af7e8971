package hammer

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/safeconduct/safeconduct/policy/conduct"
)

// Bounds of a sweep: it shares its machine with others and fills their disk with audit records.
const (
	maxRounds   = 200
	maxDuration = 10 * time.Second
	maxInFlight = 256
	maxPayload  = 64 << 10
	// maxSweep bounds the measured time. The replay set of a server holds a million messages of the last twelve minutes.
	maxSweep = 30 * time.Minute
)

// What a sweep does when it is not told otherwise.
const (
	defaultRounds   = 9
	defaultDuration = 700 * time.Millisecond
	defaultWarmup   = 200 * time.Millisecond
	defaultPayload  = 1 << 10
)

// Budget is what the server of an enforced variant gives its one caller: far above what the machine can do, so that the meter
// counts every call and refuses none.
func Budget() conduct.Budget { return conduct.Budget{Rate: 1e6, Burst: 1e6, InFlight: 4 * maxInFlight} }

// Config says what a sweep does. Exe is required; zero fields take the defaults.
type Config struct {
	// Exe and Args start a process that calls [Main] with the arguments that follow Args.
	Exe  string
	Args []string
	// Dir gets a folder with the audit logs of all processes, which the sweep removes. It must lie on a disk. Empty is the folder
	// for temporary files, or the working directory when that one lies in memory.
	Dir      string
	Variants []Variant
	Rounds   int
	Duration time.Duration
	Warmup   time.Duration
	InFlight []int
	Payload  int
	// Profiles is a folder for profiles of every process; profiling costs time, so such a sweep is not for figures.
	Profiles string
	// Lines gets one JSON object per line: what the sweep ran on, every round, and the summary.
	Lines io.Writer
	// Progress gets words for a person.
	Progress io.Writer
}

func (c Config) withDefaults() (Config, error) {
	if c.Variants == nil {
		c.Variants = Variants()
	}
	if c.Rounds == 0 {
		c.Rounds = defaultRounds
	}
	if c.Duration == 0 {
		c.Duration = defaultDuration
	}
	if c.Warmup == 0 {
		c.Warmup = defaultWarmup
	}
	if c.InFlight == nil {
		c.InFlight = []int{1, 16, 64}
	}
	if c.Payload == 0 {
		c.Payload = defaultPayload
	}
	if c.Lines == nil {
		c.Lines = io.Discard
	}
	if c.Progress == nil {
		c.Progress = io.Discard
	}
	return c, c.check()
}

func (c Config) check() error {
	total := time.Duration(c.Rounds*len(c.InFlight)*len(c.Variants)) * (c.Duration + c.Warmup)
	switch {
	case c.Exe == "":
		return errors.New("no executable for the children")
	case c.Rounds < 1 || c.Rounds > maxRounds:
		return fmt.Errorf("%d rounds, want 1 to %d", c.Rounds, maxRounds)
	case c.Duration <= 0 || c.Duration > maxDuration || c.Warmup < 0 || c.Warmup > maxDuration:
		return fmt.Errorf("rounds of %v after %v, want at most %v", c.Duration, c.Warmup, maxDuration)
	case c.Payload < 1 || c.Payload > maxPayload:
		return fmt.Errorf("payload of %d bytes, want 1 to %d", c.Payload, maxPayload)
	case total > maxSweep:
		return fmt.Errorf("the sweep would take %v, at most %v", total, maxSweep)
	case len(c.Variants) < 2 || c.Variants[0].Name != floorName || c.Variants[1].Name != controlName:
		return errors.New("the floor and its control come first")
	}
	for _, n := range c.InFlight {
		if n < 1 || n > maxInFlight {
			return fmt.Errorf("%d calls in flight, want 1 to %d", n, maxInFlight)
		}
	}
	return nil
}
