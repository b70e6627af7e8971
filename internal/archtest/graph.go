package archtest

import (
	"fmt"
	"slices"
	"sort"
	"strings"
)

// Package is one package as go list sees it. Paths are import paths.
type Package struct {
	Path string
	// Imports of the files that are built; the imports of other modules' packages make the graph complete.
	Imports []string
	// TestImports are those of in-package tests, XTestImports those of tests in the external _test package.
	TestImports, XTestImports []string
}

// Graph holds the packages of a build by import path.
type Graph map[string]Package

// CheckGraph returns the violations of floors and guards in g, sorted; none means that the house stands.
func CheckGraph(g Graph) []string {
	var out []string
	for path, p := range g {
		if pkg, ok := ours(path); ok {
			c := checker{g: g, p: p, pkg: pkg}
			out = append(out, c.check()...)
		}
	}
	sort.Strings(out)
	return out
}

// ours strips Module from an import path.
func ours(imp string) (string, bool) {
	if imp == Module {
		return ".", true
	}
	return strings.CutPrefix(imp, Module+"/")
}

type checker struct {
	g   Graph
	p   Package
	pkg string
	at  place
	out []string
}

func (c *checker) failf(format string, args ...any) {
	c.out = append(c.out, c.pkg+": "+fmt.Sprintf(format, args...))
}

func (c *checker) check() []string {
	testRoom := inAny(c.pkg, testRooms)
	at, ok := placeOf(c.pkg)
	if !ok && !testRoom {
		c.failf("stands on no floor; give it a place in floors.go or move its code to a room that has one")
		return c.out
	}
	c.at = at
	c.checkTestRoomImports()
	c.checkTesting()
	c.checkTestModules()
	if !testRoom {
		c.checkFloors()
		c.checkImports()
		c.checkReach()
	}
	return c.out
}

// checkFloors holds imports of ours, and those of in-package tests, against the floors. External tests may look down on any
// room: they are linked into nothing.
func (c *checker) checkFloors() {
	for _, imp := range c.p.Imports {
		c.checkArrow(imp, "imports")
	}
	for _, imp := range c.p.TestImports {
		if pkg, ok := ours(imp); ok && !inAny(pkg, testRooms) && !inAny(pkg, usesTesting) {
			c.checkArrow(imp, "imports in a test of its own package")
		}
	}
}

func (c *checker) checkArrow(imp, verb string) {
	to, ok := ours(imp)
	if !ok || to == c.pkg || inAny(to, testRooms) {
		return
	}
	target, ok := placeOf(to)
	if !ok {
		return // reported for the package that stands on no floor
	}
	if target.height < c.at.height || sameHouse(c.at, target, c.pkg, to) {
		return
	}
	way := "up"
	if target.height == c.at.height {
		way = "sideways"
	}
	c.failf("%s %s: an arrow %s, from floor %s to floor %s", verb, to, way, floors[c.at.height].name, floors[target.height].name)
}

// checkTestRoomImports lets only the packages of testRoomImporters import a test room.
func (c *checker) checkTestRoomImports() {
	for _, imp := range c.p.Imports {
		to, ok := ours(imp)
		if !ok || !inAny(to, testRooms) {
			continue
		}
		allowed := false
		for room, may := range testRoomImporters {
			allowed = allowed || inRoom(c.pkg, room) && inAny(to, may)
		}
		if !allowed {
			c.failf("imports %s: only tests may import a test room", to)
		}
	}
}

// checkTesting refuses production packages that link package testing, directly or through packages of ours.
func (c *checker) checkTesting() {
	if inAny(c.pkg, usesTesting) {
		return
	}
	isTesting := func(imp string) bool { return under(imp, "testing") }
	if chain := c.g.chain(c.p.Path, isTesting, func(imp string) bool { _, ok := ours(imp); return ok }); chain != nil {
		c.failf("links package testing into production: %s", showChain(chain))
	}
}

// checkTestModules refuses test dependencies that are in no table.
func (c *checker) checkTestModules() {
	for _, imp := range slices.Concat(c.p.TestImports, c.p.XTestImports) {
		if _, mine := ours(imp); !mine && !isStandard(imp) && !knownModule(imp) {
			c.failf("imports %s in a test: the module is in no row of guards.go", imp)
		}
	}
}

// checkImports holds direct imports from outside the repository against the guard table.
func (c *checker) checkImports() {
	g := guardOf(c.at.room)
	for _, imp := range c.p.Imports {
		if _, mine := ours(imp); !mine && !g.allowsImport(imp) {
			c.failf("imports %s: its row in guards.go does not allow it", imp)
		}
	}
}

// checkReach holds everything that is linked in against the guard table. The core never reaches grpc, connect or net/http,
// whatever its rows say.
func (c *checker) checkReach() {
	for _, m := range guardOf(c.at.room).guarded() {
		core := c.at.height <= coreHeight() && m.path != bboltModule
		if m.access != no && !core {
			continue
		}
		hit := func(imp string) bool { return under(imp, m.path) }
		chain := c.g.chain(c.p.Path, hit, nil)
		switch {
		case chain == nil:
		case core:
			c.failf("reaches %s, which the core (floors 0 to %s) never does: %s", m.path, lastCore, showChain(chain))
		case len(chain) > 2: // a direct import is reported by checkImports
			c.failf("reaches %s: its row in guards.go does not allow it: %s", m.path, showChain(chain))
		}
	}
}

// chain returns the shortest chain of imports from a package to one that hit accepts, or nil. Only packages that through
// accepts are walked through; nil accepts all.
func (g Graph) chain(from string, hit, through func(string) bool) []string {
	parent := map[string]string{from: ""}
	for queue := []string{from}; len(queue) > 0; queue = queue[1:] {
		at := queue[0]
		for _, imp := range g[at].Imports {
			if _, seen := parent[imp]; seen {
				continue
			}
			parent[imp] = at
			if hit(imp) {
				return unwind(parent, imp)
			}
			if through == nil || through(imp) {
				queue = append(queue, imp)
			}
		}
	}
	return nil
}

func unwind(parent map[string]string, at string) []string {
	var chain []string
	for ; at != ""; at = parent[at] {
		chain = append(chain, at)
	}
	slices.Reverse(chain)
	return chain
}

func showChain(chain []string) string {
	short := make([]string, len(chain))
	for i, imp := range chain {
		short[i] = strings.TrimPrefix(imp, Module+"/")
	}
	return strings.Join(short, " -> ")
}
