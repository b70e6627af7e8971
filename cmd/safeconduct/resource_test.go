package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

func TestParseResource(t *testing.T) {
	for _, tt := range []struct {
		input   string
		want    []string
		subtree bool
		bad     bool
	}{
		{input: "notes", want: []string{"notes"}},
		{input: "notes/today", want: []string{"notes", "today"}},
		{input: "notes/*", want: []string{"notes"}, subtree: true},
		{input: "notes/a%2Fb", want: []string{"notes", "a/b"}},
		{input: "notes/%2A", want: []string{"notes", "*"}},
		{input: "", bad: true},
		{input: "*", bad: true},
		{input: "/notes", bad: true},
		{input: "notes/", bad: true},
		{input: "notes//today", bad: true},
		{input: "notes/*/today", bad: true},
		{input: "notes/to*", bad: true},
		{input: "notes/..", bad: true},
		{input: "notes/%zz", bad: true},
		{input: "notes/%00", bad: true},
		{input: strings.Repeat("a/", 17) + "a", bad: true},
		{input: strings.Repeat("a", 129), bad: true},
	} {
		got, subtree, err := parseResource(tt.input)
		if (err != nil) != tt.bad || subtree != tt.subtree || cmp.Diff(tt.want, got) != "" && !tt.bad {
			t.Errorf("parseResource(%q) = %q, %t, %v; want %q, %t", tt.input, got, subtree, err, tt.want, tt.subtree)
		}
		if err == nil && tt.input != resourceText(got, subtree) {
			t.Errorf("resourceText(%q) = %q, want %q", got, resourceText(got, subtree), tt.input)
		}
	}
}

func TestParseCapabilities(t *testing.T) {
	capability := func(action string, subtree bool, path ...string) *v1.Capability {
		return &v1.Capability{Action: action, Resource: path, Subtree: subtree, Reach: 3}
	}
	for _, tt := range []struct {
		name  string
		input []string
		want  []*v1.Capability
		bad   bool
	}{
		{"one", []string{"memory.read:notes"}, []*v1.Capability{capability("memory.read", false, "notes")}, false},
		{"two resources", []string{"memory.read:notes,notes/*"}, []*v1.Capability{
			capability("memory.read", false, "notes"), capability("memory.read", true, "notes"),
		}, false},
		{"two actions", []string{"memory.read:notes,memory.write:notes/a"}, []*v1.Capability{
			capability("memory.read", false, "notes"), capability("memory.write", false, "notes", "a"),
		}, false},
		{"a colon in a resource", []string{"memory.read:user:7,user:8"}, []*v1.Capability{
			capability("memory.read", false, "user:7"), capability("memory.read", false, "user:8"),
		}, false},
		{"repeated", []string{"a.b:x", "c.d:y"}, []*v1.Capability{capability("a.b", false, "x"), capability("c.d", false, "y")}, false},
		{"no action", []string{"notes"}, nil, true},
		{"empty", []string{""}, nil, true},
		{"no resource", []string{"memory.read:"}, nil, true},
		{"trailing comma", []string{"memory.read:notes,"}, nil, true},
		{"wild action", []string{"memory.*:notes"}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseCapabilities(tt.input, 3)
			if (err != nil) != tt.bad {
				t.Fatalf("parseCapabilities(%q) = %v", tt.input, err)
			}
			if diff := cmp.Diff(tt.want, got, protocmp.Transform()); diff != "" && !tt.bad {
				t.Errorf("parseCapabilities(%q): %s", tt.input, diff)
			}
		})
	}
}

func TestTextForTerminals(t *testing.T) {
	hostile := "a\x1b[2J\u202eb\u00e9"
	if got := asciiJSON([]byte(`"` + hostile + `"`)); got != `"a\u001b[2J\u202eb\u00e9"` {
		t.Errorf("asciiJSON = %s", got)
	}
	if got := visibleLines("one\n" + hostile + "\n"); strings.ContainsAny(got, "\x1b\u202e") || !strings.HasPrefix(got, "one\n") {
		t.Errorf("visibleLines = %q", got)
	}
	for in, want := range map[string]string{"/tmp/a-b": "/tmp/a-b", "": "''", "a b": "'a b'", "it's": `'it'\''s'`, "$HOME": "'$HOME'"} {
		if got := quote(in); got != want {
			t.Errorf("quote(%q) = %s, want %s", in, got, want)
		}
	}
}

func TestAuditDirsDoNotCollide(t *testing.T) {
	u := upState{TrustDomain: "td"}
	seen := map[string]string{}
	for _, short := range []string{"acme/eu-bot", "acme-eu/bot", "acme/bot", "a/b-c", "a-b/c"} {
		id, err := u.agentID(short)
		if err != nil {
			t.Fatal(err)
		}
		dir := auditDir("/x", id)
		if old, taken := seen[dir]; taken {
			t.Errorf("%s and %s share %s", old, short, dir)
		}
		seen[dir] = short
	}
	for _, bad := range []string{"acme", "acme/", "/x", "Acme/x", "a/b/c", "spiffe://td/service/memory", "spiffe://td/tenant/a"} {
		if id, err := u.agentID(bad); err == nil {
			t.Errorf("agentID(%q) = %s, want a refusal", bad, id)
		}
	}
}
