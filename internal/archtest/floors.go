package archtest

import "strings"

// Module is the import path that every package of the repository starts with.
const Module = "github.com/safeconduct/safeconduct"

// lastCore is the highest floor of the core, which never reaches grpc, connect or net/http.
const lastCore = "4"

// floor is one storey. A package imports only packages of floors that stand earlier in the list, so packages of one floor do
// not import each other. A room that ends in /... has inner packages, which may import each other; * stands for one path element.
type floor struct {
	name  string
	rooms []string
}

// floors lists the storeys from the ground up. Rooms that are planned and not built yet are in it too.
var floors = []floor{
	{"0a", []string{"gen/safeconduct/v1", "internal/boltfile", "internal/mutant", "proto", "examples/incident/logs"}},
	{"0b", []string{"identity"}},
	{"1", []string{"identity/token", "delegation", "audit"}},
	// replaybolt is the file of what was spent.
	{"2a", []string{"policy/cedarx", "internal/replaybolt"}},
	{"2b", []string{"policy"}},
	{"3a", []string{"policy/conduct", "memory"}},
	{"3b", []string{"memory/bolt", "memory/postgres", "memory/keyring/file", "memory/memorytest"}},
	{"4", []string{"interceptors"}},
	// wirecodec is the codec of messages under grpc.
	{"5a", []string{"gen/safeconduct/rpc/v1", "internal/wirecodec"}},
	// examples/*/gen: the generated stubs of an example's own services.
	{"5b", []string{"gen/safeconduct/rpc/v1/safeconductrpcv1connect", "examples/*/gen/..."}},
	{"6", []string{"interceptors/enforcegrpc", "interceptors/enforceconnect", "internal/revfeed"}},
	{"7a", []string{"runtime", "authority"}},
	{"7b", []string{
		"runtime/memoryserver", "runtime/jetstream", "runtime/a2a", "runtime/mailboxtest", "runtime/agenttest",
		"runtime/model", "authority/postgres",
	}},
	// plane wires authority, memory and audit into one process; operator is a client of the authority's socket; intruder attacks an
	// endpoint with a client of its own; chaintext writes chains for people.
	{"8a", []string{"internal/chaintext", "internal/console", "internal/plane", "internal/operator", "internal/intruder"}},
	{"8b", []string{"examples/..."}},
	// The demo command runs an example.
	{"8c", []string{"cmd/safeconduct/..."}},
}

// testRooms may import anything of ours. Only tests and the importers of testRoomImporters may import them.
var testRooms = []string{"internal/meshtest/...", "internal/archtest", "internal/hammer/...", "internal/spiretest", "internal/vectors/...", "internal/mutant/mutanttest"}

// testRoomImporters are the non-test packages that may import a test room.
var testRoomImporters = map[string][]string{
	// The command safeconduct hammer.
	"cmd/safeconduct/...": {"internal/hammer/..."},
	// The harness for authors' tests starts a mesh.
	"runtime/agenttest":     {"internal/meshtest/..."},
	"internal/meshtest/...": testRooms,
	"internal/archtest":     testRooms,
	"internal/hammer/...":   testRooms,
	"internal/vectors/...":  testRooms,
}

// usesTesting are the packages, besides tests, that may import "testing", because only tests import them: contract suites and
// harnesses. A production package that reaches one of them reaches "testing" and fails.
var usesTesting = []string{
	"memory/memorytest", "runtime/mailboxtest", "runtime/agenttest", "internal/meshtest/...", "internal/archtest", "internal/mutant/mutanttest",
}

// inRoom reports whether the package pkg, a path below Module, belongs to room.
func inRoom(pkg, room string) bool {
	tree, isTree := strings.CutSuffix(room, "/...")
	have, want := strings.Split(pkg, "/"), strings.Split(tree, "/")
	if len(have) < len(want) || !isTree && len(have) > len(want) {
		return false
	}
	for i, w := range want {
		if w != "*" && w != have[i] {
			return false
		}
	}
	return true
}

func inAny(pkg string, rooms []string) bool {
	for _, r := range rooms {
		if inRoom(pkg, r) {
			return true
		}
	}
	return false
}

// place is where a package stands: the index of its floor and the room that names it.
type place struct {
	height int
	room   string
}

// placeOf finds the floor of a package. Of several rooms that hold it, the one with the longest name wins.
func placeOf(pkg string) (place, bool) {
	var found place
	for i, f := range floors {
		for _, r := range f.rooms {
			if inRoom(pkg, r) && len(r) > len(found.room) {
				found = place{i, r}
			}
		}
	}
	return found, found.room != ""
}

// coreHeight is the index of the highest floor of the core.
func coreHeight() int {
	for i, f := range floors {
		if f.name == lastCore {
			return i
		}
	}
	return len(floors)
}

// sameHouse reports whether two packages of one room with inner packages may import each other. Each example is a house of its
// own: examples do not lean on each other.
func sameHouse(a, b place, from, to string) bool {
	if a.room != b.room || !strings.HasSuffix(a.room, "/...") {
		return false
	}
	return !strings.HasPrefix(a.room, "examples/") || exampleName(from) == exampleName(to)
}

// exampleName returns the second element of examples/name/inner.
func exampleName(pkg string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(pkg, "examples/"), "/")
	return name
}
