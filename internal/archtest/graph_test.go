package archtest_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/safeconduct/safeconduct/internal/archtest"
)

// edges writes a graph as lines "package: import import", with + before imports of in-package tests and ++ before imports of
// external tests. Names without a dot in the first element stand below Module, except those that start with std/.
func edges(t *testing.T, text string) archtest.Graph {
	t.Helper()
	g := archtest.Graph{}
	for line := range strings.Lines(text) {
		from, imports, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		p := archtest.Package{Path: full(from)}
		for _, imp := range strings.Fields(imports) {
			switch {
			case strings.HasPrefix(imp, "++"):
				p.XTestImports = append(p.XTestImports, full(imp[2:]))
			case strings.HasPrefix(imp, "+"):
				p.TestImports = append(p.TestImports, full(imp[1:]))
			default:
				p.Imports = append(p.Imports, full(imp))
			}
		}
		g[p.Path] = p
	}
	return g
}

func full(name string) string {
	if std, ok := strings.CutPrefix(name, "std/"); ok {
		return std
	}
	first, _, _ := strings.Cut(name, "/")
	if strings.Contains(first, ".") {
		return name
	}
	return archtest.Module + "/" + name
}

func TestCheckGraph(t *testing.T) {
	const (
		grpc    = "google.golang.org/grpc"
		connect = "connectrpc.com/connect"
		bbolt   = "go.etcd.io/bbolt"
		spiffe  = "github.com/spiffe/go-spiffe/v2"
	)
	tests := []struct {
		name, input string
		want        []string
	}{
		{"an arrow down", "policy: delegation gen/safeconduct/v1", nil},
		{"an arrow up", "delegation: policy", []string{"delegation: imports policy: an arrow up, from floor 1 to floor 2b"}},
		{"an arrow sideways", "audit: delegation", []string{"audit: imports delegation: an arrow sideways, from floor 1 to floor 1"}},
		{"runtime and authority stand apart", "runtime: authority", []string{"runtime: imports authority: an arrow sideways, from floor 7a to floor 7a"}},
		{"a step up inside a floor", "memory: memory/bolt", []string{"memory: imports memory/bolt: an arrow up, from floor 3a to floor 3b"}},
		{"a step down inside a floor", "memory/bolt: memory", nil},
		{"authority uses the adapter", "authority: interceptors/enforcegrpc", nil},
		{"a package on no floor", "helpers: std/fmt", []string{
			"helpers: stands on no floor; give it a place in floors.go or move its code to a room that has one",
		}},
		{"a package below a room stands on no floor", "identity/cache: std/fmt", []string{
			"identity/cache: stands on no floor; give it a place in floors.go or move its code to a room that has one",
		}},
		{"inner packages of cmd", "cmd/safeconduct: cmd/safeconduct/up\ncmd/safeconduct/up: runtime", nil},
		{"inner packages of an example", "examples/relay: examples/relay/board runtime", nil},
		{"an example leans on another", "examples/relay: examples/incident", []string{
			"examples/relay: imports examples/incident: an arrow sideways, from floor 8b to floor 8b",
		}},
		{"the stubs of an example", "examples/relay: examples/relay/gen/relay/v1\nexamples/relay/gen/relay/v1: gen/safeconduct/v1 " + grpc, nil},
		{"an example on the ground floor", "examples/incident/logs: identity", []string{
			"examples/incident/logs: imports identity: an arrow up, from floor 0a to floor 0b",
		}},

		{"a guarded module without a row", "delegation: " + grpc + "/codes", []string{
			"delegation: imports google.golang.org/grpc/codes: its row in guards.go does not allow it",
			"delegation: reaches google.golang.org/grpc, which the core (floors 0 to 4) never does: delegation -> google.golang.org/grpc/codes",
		}},
		{"net/http in the core", "memory: std/net/http", []string{
			"memory: imports net/http: its row in guards.go does not allow it",
			"memory: reaches net/http, which the core (floors 0 to 4) never does: memory -> net/http",
		}},
		{"connect reached by the core through a module", "identity: " + spiffe + "/spiffeid\n" + spiffe + "/spiffeid: " + connect, []string{
			"identity: reaches connectrpc.com/connect, which the core (floors 0 to 4) never does: identity -> " + spiffe + "/spiffeid -> connectrpc.com/connect",
		}},
		{"an unsafe part of go-spiffe", "identity: " + spiffe + "/workloadapi", []string{
			"identity: imports " + spiffe + "/workloadapi: its row in guards.go does not allow it",
		}},
		{"go-spiffe where no row allows it", "memory: " + spiffe + "/spiffeid", []string{
			"memory: imports " + spiffe + "/spiffeid: its row in guards.go does not allow it",
		}},
		{"bbolt outside its owners", "audit: " + bbolt, []string{"audit: imports go.etcd.io/bbolt: its row in guards.go does not allow it"}},
		{"bbolt reached where the row says no", "policy: internal/boltfile\ninternal/boltfile: " + bbolt, []string{
			"policy: reaches go.etcd.io/bbolt: its row in guards.go does not allow it: policy -> internal/boltfile -> go.etcd.io/bbolt",
		}},
		{"grpc reached by the connect adapter", "interceptors/enforceconnect: gen/safeconduct/rpc/v1\ngen/safeconduct/rpc/v1: " + grpc, []string{
			"interceptors/enforceconnect: reaches google.golang.org/grpc: its row in guards.go does not allow it: interceptors/enforceconnect -> gen/safeconduct/rpc/v1 -> google.golang.org/grpc",
		}},
		{"grpc is reached by cmd and not imported", "cmd/safeconduct: runtime " + grpc + "\nruntime: " + grpc, []string{
			"cmd/safeconduct: imports google.golang.org/grpc: its row in guards.go does not allow it",
		}},
		{"a module in no row", "runtime: github.com/acme/left-pad", []string{
			"runtime: imports github.com/acme/left-pad: its row in guards.go does not allow it",
		}},
		{"a part taken out of an allowed module", "policy: github.com/cedar-policy/cedar-go github.com/cedar-policy/cedar-go/x/exp/batch", []string{
			"policy: imports github.com/cedar-policy/cedar-go/x/exp/batch: its row in guards.go does not allow it",
		}},
		{"a name that only begins like an allowed module", "internal/boltfile: go.etcd.io/bboltish", []string{
			"internal/boltfile: imports go.etcd.io/bboltish: its row in guards.go does not allow it",
		}},

		{"production imports testing", "delegation: std/testing/fstest", []string{
			"delegation: links package testing into production: delegation -> testing/fstest",
		}},
		{"production imports a contract suite", "authority: memory/memorytest\nmemory/memorytest: std/testing", []string{
			"authority: links package testing into production: authority -> memory/memorytest -> testing",
		}},
		{"the standard library imports testing", "delegation: std/net/netip\nstd/net/netip: std/testing", nil},
		{"production imports a test room", "runtime: internal/meshtest", []string{"runtime: imports internal/meshtest: only tests may import a test room"}},
		{"cmd imports the load generator", "cmd/safeconduct: internal/hammer", nil},
		{"cmd imports the test mesh", "cmd/safeconduct: internal/meshtest", []string{"cmd/safeconduct: imports internal/meshtest: only tests may import a test room"}},
		{"the load generator brings testing into cmd", "cmd/safeconduct: internal/hammer\ninternal/hammer: internal/meshtest\ninternal/meshtest: std/testing", []string{
			"cmd/safeconduct: links package testing into production: cmd/safeconduct -> internal/hammer -> internal/meshtest -> testing",
			"internal/hammer: links package testing into production: internal/hammer -> internal/meshtest -> testing",
		}},
		{"the authors' harness imports the test mesh", "runtime/agenttest: internal/meshtest std/testing", nil},
		{"a test room imports anything", "internal/meshtest: cmd/safeconduct std/net/http " + grpc, nil},
		{"tests import test rooms and suites", "memory: +internal/meshtest ++memory/memorytest", nil},
		{"an in-package test looks up", "memory: +runtime", []string{
			"memory: imports in a test of its own package runtime: an arrow up, from floor 3a to floor 7a",
		}},
		{"an external test looks up", "memory: ++runtime ++" + grpc, nil},
		{"a test module in no row", "memory: ++github.com/stretchr/testify/assert", []string{
			"memory: imports github.com/stretchr/testify/assert in a test: the module is in no row of guards.go",
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := archtest.CheckGraph(edges(t, tt.input))
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("CheckGraph(%s): (-want +got)\n%s", tt.input, diff)
			}
		})
	}
}

func TestParseList(t *testing.T) {
	g, err := archtest.ParseList("a/b|fmt a/c|testing|a/d\n")
	want := archtest.Graph{"a/b": {
		Path: "a/b", Imports: []string{"fmt", "a/c"}, TestImports: []string{"testing"}, XTestImports: []string{"a/d"},
	}}
	if err != nil || !cmp.Equal(g, want) {
		t.Errorf("ParseList: got %v, %v, want %v", g, err, want)
	}
	if _, err := archtest.ParseList("a/b|fmt\n"); err == nil {
		t.Error("ParseList(line with 2 fields): got no error")
	}
}
