// Package memory is the shared memory of a tenant's agents: entries under namespaces, with versions, conditions, labels and
// provenance, and signed-by-hash references to pinned versions.
//
// [Store.Open] with a [policy.Permit] is the only door to content. Tenant, agent, principal and label come from the permit and
// from nothing a request says. A [View] does the one action its permit is for, inside the namespaces its permit covers, and dies
// with it. What a caller may not see and what does not exist are the same [ErrNotFound]; the cause is in a [Refusal], for audit.
//
// Everything but ordered bytes is written once, above [Driver]: engines cannot differ in what they protect. Each stored record
// repeats its tenant and key, and its commitment covers body, label and version, so bytes that a driver or a disk puts in the
// wrong place fail the call. Not there: encryption at rest, expiry, watch, search, blobs, history, quotas, namespace policies
// and grants between tenants. A namespace under ["conv", id] is guarded by the permit's scope alone.
package memory
