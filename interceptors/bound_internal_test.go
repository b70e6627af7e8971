package interceptors

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

type boundKey struct{}

// bound returns a context as a handler gets it, and one of package context with the same parent and end, which it must not differ from.
func bound(parent context.Context, after time.Duration) (own *bounded, std context.Context, cancel func()) {
	until := time.Now().Add(after)
	own = &bounded{parent: parent, until: until}
	std, end := context.WithDeadline(parent, until)
	return own, std, func() { own.cancel(); end() }
}

func TestBoundedEndsLikeAContext(t *testing.T) {
	for _, tt := range []struct {
		name string
		end  func(parent context.CancelFunc, own func())
		want error
	}{
		{"not at all", func(context.CancelFunc, func()) {}, nil},
		{"cancelled", func(_ context.CancelFunc, own func()) { own() }, context.Canceled},
		{"parent", func(parent context.CancelFunc, _ func()) { parent() }, context.Canceled},
		{"time", func(context.CancelFunc, func()) { <-time.After(time.Minute) }, context.DeadlineExceeded},
		{"time, then cancelled", func(_ context.CancelFunc, own func()) { <-time.After(time.Minute); own() }, context.DeadlineExceeded},
		{"cancelled, then time", func(_ context.CancelFunc, own func()) { own(); <-time.After(time.Minute) }, context.Canceled},
	} {
		for _, asked := range []bool{false, true} { // whether somebody waits before the end
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					parent, stop := context.WithCancel(context.WithValue(context.Background(), boundKey{}, "v"))
					defer stop()
					own, std, cancel := bound(parent, time.Second)
					defer cancel()
					if asked {
						_ = own.Done()
					}
					tt.end(stop, cancel)
					synctest.Wait()
					if !errors.Is(own.Err(), tt.want) || !errors.Is(own.Err(), std.Err()) {
						t.Errorf("Err() = %v, want %v as %v", own.Err(), tt.want, std.Err())
					}
					select {
					case <-own.Done():
						if tt.want == nil {
							t.Error("Done() is closed")
						}
					default:
						if tt.want != nil {
							t.Error("Done() is open")
						}
					}
					if !errors.Is(own.Err(), tt.want) || !errors.Is(context.Cause(own), tt.want) || own.Value(boundKey{}) != "v" {
						t.Errorf("after Done(): Err() = %v, cause %v, value %v", own.Err(), context.Cause(own), own.Value(boundKey{}))
					}
					at, ok := own.Deadline()
					want, ok2 := std.Deadline()
					if ok != ok2 || !at.Equal(want) {
						t.Errorf("Deadline() = %v, %v, want %v", at, ok, want)
					}
				})
			})
		}
	}
}

// A context made from one that nobody has asked yet must end with it, without a goroutine of its own.
func TestBoundedEndsItsChildren(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		own := &bounded{parent: context.Background()}
		if _, ok := own.Deadline(); ok {
			t.Error("a deadline without a time")
		}
		child, stop := context.WithTimeout(own, time.Hour)
		defer stop()
		own.cancel()
		<-child.Done()
		if !errors.Is(child.Err(), context.Canceled) {
			t.Errorf("child: %v", child.Err())
		}
	})
}

func TestBoundedFromManyGoroutines(t *testing.T) {
	for range 200 {
		parent, stop := context.WithCancel(context.Background())
		own := &bounded{parent: parent, until: time.Now().Add(time.Hour)}
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				if i == 0 {
					own.cancel()
				}
				_, _ = own.Err(), own.Value(boundKey{})
				<-own.Done()
				if own.Err() == nil {
					t.Error("Done() is closed, Err() is nil")
				}
			})
		}
		wg.Wait()
		stop()
	}
}

func TestBoundTwice(t *testing.T) {
	in := &Interaction{}
	first, end := in.Bound(context.Background())
	second, stop := in.Bound(context.Background())
	defer stop()
	end()
	if first.Err() == nil || second.Err() != nil {
		t.Errorf("first %v, second %v", first.Err(), second.Err())
	}
}

func TestFlushWaitsForWhatIsLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e, ran := &Enforcer{}, 0
		e.Later(20*time.Millisecond, func() {
			ran++
			e.Later(20*time.Millisecond, func() { ran++ })
		})
		e.late.wait()
		if ran != 2 {
			t.Errorf("%d of 2 have run", ran)
		}
		e.late.wait()
		e.Later(time.Hour, func() {})
		begin := time.Now()
		e.late.wait()
		if d := time.Since(begin); d != maxLateWait {
			t.Errorf("waits for %v", d)
		}
		<-time.After(time.Hour)
	})
}
