package audit_test

import (
	"context"
	"fmt"
	"os"

	"github.com/safeconduct/safeconduct/audit"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func Example() {
	dir, err := os.MkdirTemp("", "audit")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	log, err := audit.Open(dir, audit.Config{Origin: "mesh.example/safeconduct/search"})
	if err != nil {
		fmt.Println(err)
		return
	}
	// Durable before the effect happens.
	pos, err := log.Append(context.Background(), audit.Effect, &audit.Event{
		Kind: v1.EventKind_EVENT_KIND_CALL, Phase: v1.EventPhase_EVENT_PHASE_INTENT, Action: "memory.write",
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	if err := log.Close(); err != nil {
		fmt.Println(err)
		return
	}
	report, err := audit.Verify(dir)
	fmt.Println(pos.Seq, report.Verdict, report.Next, err)
	// Output: 1 good 2 <nil>
}
