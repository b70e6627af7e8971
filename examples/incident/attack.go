package incident

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/intruder"
)

// attackOrder is what an intruder process is told to try, and what it holds.
type attackOrder struct {
	Names       []string `json:"names"`
	Target      string   `json:"target"`
	TargetAddr  string   `json:"target_addr"`
	Namespace   []string `json:"namespace"`
	Foreign     []string `json:"foreign"`
	OtherTenant string   `json:"other_tenant"`
	Purpose     string   `json:"purpose"`
	Grant       []byte   `json:"grant"`
	ShortGrant  []byte   `json:"short_grant"`
	OtherGrant  []byte   `json:"other_grant"`
	StolenChain []byte   `json:"stolen_chain"`
	Operator    string   `json:"operator_socket"`
	Workload    string   `json:"workload_socket"`
	Sibling     string   `json:"sibling"`
}

// attack runs the intruder that this process is.
func (w *worker) attack(ctx context.Context, c command) error {
	var o attackOrder
	if err := json.Unmarshal(c.Attack, &o); err != nil {
		return fmt.Errorf("attack order: %w", err)
	}
	cfg := intruder.Config{
		Self: w.agent.ID(), Source: w.agent.Source(), TargetAddr: o.TargetAddr, Namespace: o.Namespace, Foreign: o.Foreign,
		OtherTenant: o.OtherTenant, Purpose: o.Purpose, OperatorSocket: o.Operator, WorkloadSocket: o.Workload, Now: time.Now,
	}
	var err error
	if cfg.Target, err = identity.ParseAgent(o.Target); err != nil {
		return err
	}
	if o.Sibling != "" {
		if cfg.Sibling, err = identity.ParseAgent(o.Sibling); err != nil {
			return err
		}
	}
	for _, part := range []struct {
		raw []byte
		dst **v1.SignedStatement
	}{{o.Grant, &cfg.Grant}, {o.ShortGrant, &cfg.ShortGrant}, {o.OtherGrant, &cfg.OtherGrant}} {
		if len(part.raw) == 0 {
			continue
		}
		*part.dst = new(v1.SignedStatement)
		if err := proto.Unmarshal(part.raw, *part.dst); err != nil {
			return fmt.Errorf("grant: %w", err)
		}
	}
	if len(o.StolenChain) > 0 {
		cfg.StolenChain = new(v1.DelegationChain)
		if err := proto.Unmarshal(o.StolenChain, cfg.StolenChain); err != nil {
			return fmt.Errorf("stolen chain: %w", err)
		}
	}
	results, err := intruder.Run(ctx, cfg, o.Names...)
	if err != nil {
		return err
	}
	w.out.emit(kindAttacks, "", results)
	return nil
}
