package archtest

import "strings"

// access says how close a package may come to a guarded module. The zero value is not at all.
type access int

const (
	no      access = iota // neither imported nor reached through others
	reached               // reached through others, not imported
	direct                // imported
)

// guard is a row of the guard table: what packages of one room may import from outside the repository.
type guard struct {
	room                       string
	grpc, connect, http, bbolt access
	// spiffe names the packages of go-spiffe that may be imported; what they import in turn is covered by the other columns.
	spiffe []string
	// modules are import path prefixes of further modules that may be imported. An entry that starts with ! takes a part out.
	modules []string
}

// Import paths of the guarded modules.
const (
	grpcModule    = "google.golang.org/grpc"
	connectModule = "connectrpc.com/connect"
	httpPackage   = "net/http"
	bboltModule   = "go.etcd.io/bbolt"
	spiffeModule  = "github.com/spiffe/go-spiffe/v2"
)

// The parts of go-spiffe that reach neither grpc nor net/http.
var spiffeBase = []string{"spiffeid", "svid/x509svid", "bundle/x509bundle"}

// everywhere are modules that any room may import: messages are protobuf on every floor.
var everywhere = []string{"google.golang.org/protobuf"}

// testModules are modules that only tests import.
var testModules = []string{"github.com/google/go-cmp", "github.com/rogpeppe/go-internal", "pgregory.net/rapid", "github.com/nats-io/nats-server/v2"}

// guards is the guard table. A package that has no row may import the standard library other than net/http, and protobuf.
var guards = []guard{
	{room: "gen/safeconduct/v1", modules: []string{"github.com/planetscale/vtprotobuf"}},
	{room: "proto"},
	{room: "examples/incident/logs"},
	{room: "internal/mutant"},
	{room: "internal/boltfile", bbolt: direct, modules: []string{"golang.org/x/sys"}},
	{room: "identity", spiffe: spiffeBase},
	{room: "identity/token", spiffe: []string{"spiffeid"}, modules: []string{"github.com/go-jose/go-jose/v4"}},
	{room: "delegation", spiffe: spiffeBase},
	// x/sys: locks, preallocation and data sync of segment files.
	{room: "audit", modules: []string{"github.com/transparency-dev/merkle", "golang.org/x/mod/sumdb", "golang.org/x/sys"}},
	{room: "internal/replaybolt", bbolt: direct},
	{room: "policy/cedarx", modules: []string{"github.com/cedar-policy/cedar-go"}},
	{room: "policy", modules: []string{"github.com/cedar-policy/cedar-go", "!github.com/cedar-policy/cedar-go/x/exp"}},
	{room: "policy/conduct"},
	{room: "memory", modules: []string{"github.com/tink-crypto/tink-go/v2"}},
	{room: "memory/bolt", bbolt: direct},
	{room: "memory/postgres", modules: []string{"github.com/jackc/pgx/v5"}},
	{room: "memory/keyring/file"},
	{room: "memory/memorytest"},
	{room: "interceptors"},
	{room: "gen/safeconduct/rpc/v1", grpc: direct, http: reached},
	{room: "internal/wirecodec", grpc: direct, http: reached},
	{room: "gen/safeconduct/rpc/v1/safeconductrpcv1connect", grpc: reached, connect: direct, http: direct},
	{room: "examples/*/gen/...", grpc: direct, connect: direct, http: direct},
	{room: "interceptors/enforcegrpc", grpc: direct, http: reached, modules: []string{"google.golang.org/genproto/googleapis/rpc"}},
	{room: "interceptors/enforceconnect", connect: direct, http: direct, modules: []string{"google.golang.org/genproto/googleapis/rpc"}},
	{room: "internal/revfeed", grpc: direct, http: reached},
	{
		room: "runtime", grpc: direct, connect: direct, http: direct, bbolt: direct,
		spiffe: append([]string{"workloadapi", "spiffetls/tlsconfig"}, spiffeBase...),
		// genproto: refusals of others are read from their ErrorInfo.
		modules: []string{"go.opentelemetry.io/otel", "google.golang.org/genproto/googleapis/rpc"},
	},
	{room: "runtime/model", http: direct},
	{room: "runtime/memoryserver", grpc: reached, connect: reached, http: reached, bbolt: reached},
	{room: "runtime/mailboxtest", grpc: reached, connect: reached, http: reached, bbolt: reached},
	{room: "runtime/agenttest", grpc: reached, connect: reached, http: reached, bbolt: reached},
	{room: "runtime/jetstream", grpc: reached, connect: reached, http: reached, bbolt: reached, modules: []string{"github.com/nats-io/nats.go"}},
	{room: "runtime/a2a", grpc: direct, connect: direct, http: direct, bbolt: reached, modules: []string{"github.com/a2aproject/a2a-go/v2"}},
	{
		room: "authority", grpc: direct, connect: direct, http: direct, bbolt: direct,
		// proto/spiffe/workload: the stubs of the Workload API, which the authority serves.
		spiffe: append([]string{"workloadapi", "spiffetls/tlsconfig", "proto/spiffe/workload"}, spiffeBase...),
		// x/sys: the credentials of a Unix socket's peer; genproto: the operator's refusals carry an ErrorInfo.
		modules: []string{"golang.org/x/sys", "google.golang.org/genproto/googleapis/rpc"},
	},
	{room: "authority/postgres", grpc: reached, connect: reached, http: reached, bbolt: reached, modules: []string{"github.com/jackc/pgx/v5"}},
	{room: "internal/chaintext", spiffe: spiffeBase},
	{room: "internal/console", connect: reached, http: direct},
	{room: "internal/plane", grpc: reached, connect: reached, http: reached, bbolt: reached},
	{
		room: "internal/operator", grpc: direct, http: reached,
		modules: []string{"google.golang.org/genproto/googleapis/rpc"},
	},
	{
		// A raw client: it must not be stopped by our own.
		room: "internal/intruder", grpc: direct, connect: reached, http: reached, bbolt: reached,
		spiffe:  append([]string{"workloadapi", "proto/spiffe/workload"}, spiffeBase...),
		modules: []string{"google.golang.org/genproto/googleapis/rpc"},
	},
	{
		room: "cmd/safeconduct/...", grpc: reached, connect: reached, http: reached, bbolt: reached,
		// cobra and pflag: the command line; x/sys: terminals and memory files.
		modules: []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "golang.org/x/sys"},
	},
	{room: "examples/...", grpc: reached, connect: reached, http: reached, bbolt: reached},
}

// guardOf returns the row of a room; a room without a row gets the row that allows nothing.
func guardOf(room string) guard {
	for _, g := range guards {
		if g.room == room {
			return g
		}
	}
	return guard{room: room}
}

// under reports whether the import path imp is path or lies below it.
func under(imp, path string) bool {
	return imp == path || strings.HasPrefix(imp, path+"/")
}

// guarded returns the accesses of g, by the module they guard, in a fixed order.
func (g guard) guarded() []guardedModule {
	return []guardedModule{
		{grpcModule, g.grpc},
		{connectModule, g.connect},
		{httpPackage, g.http},
		{bboltModule, g.bbolt},
	}
}

type guardedModule struct {
	path   string
	access access
}

// allowsImport reports whether g lets a package import imp, a package outside the repository.
func (g guard) allowsImport(imp string) bool {
	for _, m := range g.guarded() {
		if under(imp, m.path) {
			return m.access == direct
		}
	}
	if sub, ok := strings.CutPrefix(imp, spiffeModule+"/"); ok {
		return matchPrefixes(sub, g.spiffe)
	}
	if isStandard(imp) {
		return true
	}
	return matchPrefixes(imp, everywhere) || matchPrefixes(imp, g.modules)
}

// matchPrefixes reports whether imp lies below an entry of list and below no entry that starts with !.
func matchPrefixes(imp string, list []string) bool {
	ok := false
	for _, entry := range list {
		if out, isOut := strings.CutPrefix(entry, "!"); isOut {
			if under(imp, out) {
				return false
			}
			continue
		}
		ok = ok || under(imp, entry)
	}
	return ok
}

// knownModule reports whether imp is named anywhere in the tables, so that a test may import it.
func knownModule(imp string) bool {
	if matchPrefixes(imp, testModules) || matchPrefixes(imp, everywhere) || under(imp, spiffeModule) {
		return true
	}
	for _, g := range guards {
		if matchPrefixes(imp, g.modules) {
			return true
		}
		for _, m := range g.guarded() {
			if under(imp, m.path) {
				return true
			}
		}
	}
	return false
}

// isStandard reports whether imp is a package of the standard library: its first element has no dot.
func isStandard(imp string) bool {
	first, _, _ := strings.Cut(imp, "/")
	return !strings.Contains(first, ".")
}
