package incident

import (
	"context"
	"fmt"
	"slices"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const (
	trustDomain = "demo.safeconduct"
	memoryID    = "spiffe://" + trustDomain + "/service/memory"
	tenantA     = "acme"
	tenantB     = "globex"
	incidentID  = "inc-1042"
	purpose     = "work incident " + incidentID
	engineer    = "alice@acme.example"
	maxDepth    = 4
)

func agentID(tenant, role string) string {
	return "spiffe://" + trustDomain + "/tenant/" + tenant + "/agent/" + role
}

// cast is who takes part: the class of an agent bears its role's name.
var cast = []struct{ role, tenant, purpose string }{
	{"oncall", tenantA, "speaks for the on-call engineer"},
	{"triage", tenantA, "coordinates an incident without reading content"},
	{"analyst", tenantA, "reads evidence and writes findings"},
	{"planner", tenantA, "proposes rules"},
	{"executor", tenantA, "puts rules in force"},
	{"intern", tenantA, "a colleague that was taken over"},
	{"visitor", tenantB, "an agent of another tenant"},
}

// rule is one row of the capability table, short.
type rule struct {
	role, action string
	path         []string
	subtree      bool
	at           string
}

// table is all that anybody may do. Taking one row away makes the demo fail at the call that needs it.
func table() []*v1.CapabilityRow {
	incident := []string{"shared", "incident"}
	rules := []rule{
		{"oncall", "memory.write", incident, true, memoryID},
		{"oncall", "incident.handle", []string{"agent", "triage"}, false, agentID(tenantA, "triage")},
		{"triage", "incident.analyze", []string{"agent", "analyst"}, false, agentID(tenantA, "analyst")},
		{"triage", "incident.propose", []string{"agent", "planner"}, false, agentID(tenantA, "planner")},
		{"triage", "incident.apply", []string{"agent", "executor"}, false, agentID(tenantA, "executor")},
		// The planner may ask for urgent rules. What stops it once it has read the log is its label, not this table.
		{"planner", "incident.apply", []string{"agent", "executor"}, false, agentID(tenantA, "executor")},
	}
	for _, role := range []string{"analyst", "planner", "executor"} {
		rules = append(rules,
			rule{role, "context.resolve", incident, true, memoryID},
			rule{role, "memory.write", incident, true, memoryID})
	}
	var rows []*v1.CapabilityRow
	for _, r := range rules {
		rows = append(rows, r.row(tenantA))
	}
	for tenant, role := range map[string]string{tenantA: "intern", tenantB: "visitor"} {
		own := []string{"shared", role}
		rows = append(rows, rule{role, "memory.list", own, false, memoryID}.row(tenant), rule{role, "memory.list", own, true, memoryID}.row(tenant))
	}
	return rows
}

func (r rule) row(tenant string) *v1.CapabilityRow {
	id := fmt.Sprintf("%s-%s-%s", tenant, r.role, dashed(r.action))
	if r.subtree {
		id += "-below"
	}
	return &v1.CapabilityRow{
		Id: id, Tenant: tenant, AgentClass: r.role, Peers: []string{r.at},
		Capability: &v1.Capability{Action: r.action, Resource: r.path, Subtree: r.subtree},
	}
}

func dashed(action string) string {
	out := []byte(action)
	for i, c := range out {
		if c == '.' {
			out[i] = '-'
		}
	}
	return string(out)
}

// register puts the cast and the table into the authority.
func (d *demo) register(ctx context.Context) error {
	for _, c := range cast {
		_, err := d.plane.Authority.RegisterAgent(ctx, &v1.Agent{
			SpiffeId: agentID(c.tenant, c.role), AgentClass: c.role, Owner: engineer, Purpose: c.purpose,
			IntegrityCap: v1.Integrity_INTEGRITY_ATTESTED,
		})
		if err != nil {
			return fmt.Errorf("registering %s: %w", c.role, err)
		}
	}
	rows := table()
	for i, row := range rows {
		if row.GetId() == d.o.withoutRow {
			rows = append(rows[:i], rows[i+1:]...)
			break
		}
	}
	if _, err := d.plane.Authority.EditTable(ctx, rows, nil); err != nil {
		return fmt.Errorf("capability table: %w", err)
	}
	return nil
}

// grantRequest is what `safeconduct grant` asks for the incident: everything its work needs, for this purpose, for 15 minutes.
func (d *demo) grantRequest() *rpcv1.IssueGrantRequest {
	ns := []string{"shared", "incident", incidentID}
	capability := func(action string, subtree bool, path ...string) *v1.Capability {
		return &v1.Capability{Action: action, Resource: path, Subtree: subtree, Reach: maxDepth}
	}
	capabilities := []*v1.Capability{
		capability("incident.handle", false, "agent", "triage"),
		capability("incident.analyze", false, "agent", "analyst"),
		capability("incident.propose", false, "agent", "planner"),
		capability("incident.apply", false, "agent", "executor"),
		capability("context.resolve", true, ns...),
		capability("memory.write", true, ns...),
	}
	capabilities = slices.DeleteFunc(capabilities, func(c *v1.Capability) bool { return c.GetAction() == d.o.withoutScope })
	return &rpcv1.IssueGrantRequest{
		Principal: engineer, Delegate: agentID(tenantA, "oncall"), Purpose: purpose, TaskId: incidentID, MaxDepth: maxDepth,
		Capabilities: capabilities,
	}
}
