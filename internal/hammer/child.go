package hammer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync/atomic"
	"time"

	"github.com/safeconduct/safeconduct/audit"
)

// part is a server or a client at work.
type part interface {
	// address is where a server listens, empty for a client.
	address() string
	// work makes calls for a spell; a server refuses.
	work(ctx context.Context, r *runSpec) (*result, error)
	// log is the audit log, nil where there is none.
	log() *audit.Log
	close() error
}

// handled counts the calls that reached a handler.
type handled struct{ n atomic.Uint64 }

// child serves the orders of its parent until the pipe is closed.
func child(ctx context.Context, in io.Reader, out io.Writer) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders, answers := json.NewDecoder(in), json.NewEncoder(out)
	first, err := read[order](orders)
	if err != nil {
		return err
	}
	if first.Start == nil {
		return errors.New("the first order is not to start")
	}
	calls := new(handled)
	p, err := newPart(ctx, first.Start, calls)
	if err != nil {
		return errors.Join(err, answers.Encode(answer{Error: err.Error()}))
	}
	defer func() { err = errors.Join(err, p.close()) }()
	stop, err := startProfile(first.Start.Profile)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if err := answers.Encode(answer{Address: p.address()}); err != nil {
		return err
	}
	for {
		o, err := read[order](orders)
		if errors.Is(err, errGone) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := answers.Encode(obey(ctx, p, calls, o)); err != nil {
			return err
		}
	}
}

func newPart(ctx context.Context, s *startSpec, calls *handled) (part, error) {
	switch {
	case s.Role == roleServer && s.Kind.enforced():
		return newAgentServer(ctx, s, calls)
	case s.Role == roleServer:
		return newRawServer(ctx, s, calls)
	case s.Kind.enforced():
		return newAgentClient(ctx, s)
	}
	return newRawClient(ctx, s)
}

func obey(ctx context.Context, p part, calls *handled, o *order) answer {
	var a answer
	var err error
	switch {
	case o.Do == doUsage:
		a.Usage, err = measure(ctx, p, calls)
	case o.Do == doRun && o.Run != nil:
		a.Result, err = p.work(ctx, o.Run)
	default:
		err = fmt.Errorf("unknown order %q", o.Do)
	}
	if err != nil {
		return answer{Error: err.Error()}
	}
	return a
}

// measure reads what was used, after everything that a spell left behind is on disk: the calls pay for their records.
func measure(ctx context.Context, p part, calls *handled) (*usage, error) {
	u := &usage{Handled: calls.n.Load()}
	if l := p.log(); l != nil {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		if err := l.Sync(ctx); err != nil {
			return nil, err
		}
		u.Records = l.Durable()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	u.Allocs, u.Bytes = m.Mallocs, m.TotalAlloc
	var err error
	u.CPUNs, err = processorTime()
	return u, err
}

// startProfile writes a processor profile to path.cpu until stop is called, and then all allocations to path.allocs.
func startProfile(path string) (stop func() error, err error) {
	if path == "" {
		return func() error { return nil }, nil
	}
	cpu, err := newFile(path + ".cpu.prof")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, errors.Join(err, cpu.Close())
	}
	return func() error {
		pprof.StopCPUProfile()
		err := cpu.Close()
		allocs, aerr := newFile(path + ".allocs.prof")
		if aerr != nil {
			return errors.Join(err, aerr)
		}
		return errors.Join(err, pprof.Lookup("allocs").WriteTo(allocs, 0), allocs.Close())
	}, nil
}

func newFile(path string) (*os.File, error) {
	return os.OpenFile(filepath.Clean(path), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
}
