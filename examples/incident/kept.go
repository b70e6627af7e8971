package incident

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"google.golang.org/protobuf/proto"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func selfPid() int { return os.Getpid() }

const keptPurpose = "try it by hand"

// keep leaves the demo running: it writes what the other commands need to find it, issues a grant, and prints calls to make.
func (d *demo) keep(ctx context.Context) error {
	up, err := json.Marshal(map[string]any{ // as `safeconduct up` leaves it
		"pid": os.Getpid(), "trust_domain": trustDomain, "authority": d.plane.AuthorityAddr(), "memory": d.plane.MemoryAddr(),
		"edge": d.plane.Memory.EdgeAddr(), "workload_socket": d.plane.Authority.WorkloadSocket(),
		"operator_socket": d.plane.Authority.OperatorSocket(), "version": d.o.Version, "started": d.started.UTC().Format(time.RFC3339),
	})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "up.json"), up, 0o600); err != nil {
		return err
	}
	issued, err := d.plane.Authority.IssueGrant(ctx, &rpcv1.IssueGrantRequest{
		Principal: engineer, Delegate: agentID(tenantA, "intern"), Purpose: keptPurpose, MaxDepth: 2,
		Capabilities: []*v1.Capability{{Action: "memory.list", Resource: []string{"shared", "intern"}, Reach: 2}},
	})
	if err != nil {
		return err
	}
	grant, err := proto.Marshal(issued.GetGrant())
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(d.dir, "try.grant"), grant, 0o600); err != nil {
		return err
	}
	d.show.kept(d)
	<-ctx.Done()
	return nil
}

// kept prints exact lines to run in another terminal: a call that is allowed and one that is denied, by grpcurl over gRPC and by curl
// over Connect.
func (s *screen) kept(d *demo) {
	s.title("Left running for 15 minutes of grant. Ctrl-C ends it and removes every file.")
	raw := func(format string, args ...any) { _, _ = fmt.Fprintf(s.w, format+"\n", args...) } // lines to copy are not cut
	_, port, _ := net.SplitHostPort(d.plane.Memory.EdgeAddr())
	host := "memory.service." + trustDomain
	raw("export SAFECONDUCT_DIR=%s", d.dir)
	envelope := func(ns, flags string) string {
		return fmt.Sprintf(`safeconduct agent envelope --as acme/intern --grant $SAFECONDUCT_DIR/try.grant --purpose %q `+
			`--method /safeconduct.rpc.v1.MemoryService/List --data '{"ns":{"labels":["shared","%s"]}}'%s`, keptPurpose, ns, flags)
	}
	tls := `safeconduct agent exec-tls acme/intern -- sh -c '`
	curl := tls + `curl -sS --cert $SAFECONDUCT_CERT --key $SAFECONDUCT_KEY --cacert $SAFECONDUCT_BUNDLE --resolve ` + host + ":" + port + ":127.0.0.1" +
		` -H "Content-Type: application/json" --data-binary @- https://` + host + ":" + port + `/safeconduct.rpc.v1.ExchangeService/Deliver'`
	grpcurl := tls + `grpcurl -cert $SAFECONDUCT_CERT -key $SAFECONDUCT_KEY -cacert $SAFECONDUCT_BUNDLE -servername ` + host +
		` -import-path $SAFECONDUCT_DIR/proto -proto safeconduct/rpc/v1/memory.proto -d @ ` + d.plane.MemoryAddr() + ` safeconduct.rpc.v1.MemoryService/List'`
	raw("\n# curl, Connect: allowed (its own namespace), then denied (another's)")
	raw("%s | %s", envelope("intern", ""), curl)
	raw("%s | %s", envelope("incident", ""), curl)
	raw("\n# grpcurl, gRPC: allowed, then denied (no envelope)")
	raw("safeconduct proto export $SAFECONDUCT_DIR/proto")
	raw("%s | %s", envelope("intern", " --beside"), grpcurl)
	raw(`echo '{"ns":{"labels":["shared","intern"]}}' | %s`, grpcurl)
}
