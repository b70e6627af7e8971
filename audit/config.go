package audit

import (
	"fmt"
	"time"
)

const (
	// DefaultBufferBytes is the size of each of the two buffers. A server that must outlive a disk stall of a second under
	// full load sets 16 MiB.
	DefaultBufferBytes = 1 << 20
	// DefaultSegmentBytes is where a segment is closed.
	DefaultSegmentBytes = 64 << 20
	// DefaultSegmentAge closes a segment of a quiet log, so that old segments can be moved away.
	DefaultSegmentAge = 24 * time.Hour
	// DefaultFlushInterval is how long a record may stay in memory: what a killed process loses.
	DefaultFlushInterval = 2 * time.Millisecond
	// DefaultSyncInterval is how long written records may stay unsynced when nobody waits.
	DefaultSyncInterval = 10 * time.Millisecond
	// DefaultFullWait is how long Append waits for room when its context has no deadline.
	DefaultFullWait = time.Second

	// minBufferBytes holds one record of the largest size with its frame.
	minBufferBytes  = MaxRecordBytes + frameOverhead
	maxBufferBytes  = 256 << 20
	minSegmentBytes = 1 << 10
	maxSegmentBytes = 1 << 30
	maxOriginBytes  = 256
)

// Config says how a Log is kept. Zero fields but Origin take the defaults.
type Config struct {
	// Origin names the log: "<trust domain>/safeconduct/<log name>". Required, at most 256 bytes of printable ASCII without spaces.
	Origin string
	// BufferBytes is the size of each of the two buffers, never grown.
	BufferBytes int
	// SegmentBytes closes a segment that would grow past it.
	SegmentBytes int64
	// SegmentAge closes a segment that is older when the next record comes.
	SegmentAge time.Duration
	// FlushInterval, SyncInterval and FullWait: see the defaults.
	FlushInterval time.Duration
	SyncInterval  time.Duration
	FullWait      time.Duration
	// Now is the wall clock; nil is time.Now.
	Now func() time.Time

	// files replaces the directory in tests of crashes and full disks.
	files fileSystem
}

// withDefaults returns c with every zero field set, or an error for a value out of bounds.
func (c Config) withDefaults() (Config, error) {
	if c.BufferBytes == 0 {
		c.BufferBytes = DefaultBufferBytes
	}
	if c.SegmentBytes == 0 {
		c.SegmentBytes = DefaultSegmentBytes
	}
	for _, d := range []struct {
		value    *time.Duration
		fallback time.Duration
	}{
		{&c.SegmentAge, DefaultSegmentAge},
		{&c.FlushInterval, DefaultFlushInterval},
		{&c.SyncInterval, DefaultSyncInterval},
		{&c.FullWait, DefaultFullWait},
	} {
		if *d.value == 0 {
			*d.value = d.fallback
		}
		if *d.value < 0 {
			return c, fmt.Errorf("audit config: negative duration %s", *d.value)
		}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	switch {
	case !validOrigin(c.Origin):
		return c, fmt.Errorf("audit config: origin must be 1 to %d bytes of printable ASCII without spaces", maxOriginBytes)
	case c.BufferBytes < minBufferBytes || c.BufferBytes > maxBufferBytes:
		return c, fmt.Errorf("audit config: buffer of %d bytes, want %d to %d", c.BufferBytes, minBufferBytes, maxBufferBytes)
	case c.SegmentBytes < minSegmentBytes || c.SegmentBytes > maxSegmentBytes:
		return c, fmt.Errorf("audit config: segment of %d bytes, want %d to %d", c.SegmentBytes, minSegmentBytes, maxSegmentBytes)
	}
	return c, nil
}

func validOrigin(s string) bool {
	if s == "" || len(s) > maxOriginBytes {
		return false
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
