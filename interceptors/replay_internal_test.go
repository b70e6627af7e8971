package interceptors

import (
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/identity"
)

// An insert that races with a turn of the generations must find the key in the older one.
func TestInsertLooksAtBothGenerations(t *testing.T) {
	id, err := identity.ParseAgent("spiffe://mesh.test/tenant/acme/agent/relay")
	if err != nil {
		t.Fatal(err)
	}
	s, now := newReplaySet(0), time.Unix(1_700_000_000, 0)
	key := replayKey(id, make([]byte, 16))
	if fresh, full := s.insert(id.Tenant(), key, now); !fresh || full {
		t.Fatalf("insert() = %v, %v", fresh, full)
	}
	if fresh, _ := s.insert(id.Tenant(), key, now.Add(replayGeneration)); fresh {
		t.Error("a key of the older generation is fresh")
	}
	if fresh, _ := s.insert(id.Tenant(), key, now.Add(-time.Hour)); fresh {
		t.Error("a clock that steps back forgets a key")
	}
}
