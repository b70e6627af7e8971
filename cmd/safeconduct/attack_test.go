package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	hellov1 "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

const listMethod = "/safeconduct.rpc.v1.MemoryService/List"

// onMemory is the command line of an attack on the shared memory.
func onMemory(grant string, more ...string) []string {
	return append([]string{
		"attack", "--peer", memoryID, "--grant", grant, "--purpose", "report", "--method", listMethod, "--request", `{"ns":{"labels":["notes"]}}`,
	}, more...)
}

func TestAttack(t *testing.T) {
	w := newWorld(t)
	w.up()
	w.agent("planner")
	grant := filepath.Join(w.bin, "planner.grant")
	as := func(args ...string) result {
		return w.run(append([]string{"agent", "run", "acme/planner", "--", w.program("safeconduct")}, args...)...)
	}

	t.Run("refused", func(t *testing.T) {
		r := as(onMemory(grant, "--only", "other-tenant,removed-root", "--only", "replay", "--only", "weak-label")...)
		for _, want := range []string{
			"Target  " + memoryID + " at 127.0.0.1:", "As      spiffe://safeconduct.local/tenant/acme/agent/planner", "REFUSED       50  other-tenant",
			"NOT RUN           weak-label", "the method takes anybody's word", "\n3 refused, 0 admitted, 0 inconclusive, 1 not run; ",
		} {
			if !strings.Contains(r.out, want) {
				t.Errorf("= %s\nwant %q in it", r.out, want)
			}
		}
		if r.code != 0 || r.err != "" {
			t.Errorf("= %d, %q; want 0 and no word more", r.code, r.err)
		}
	})
	t.Run("as JSON, with files for an identity", func(t *testing.T) {
		u, err := readUp(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		line := `"$0" "$@" --cert "$SAFECONDUCT_CERT" --key "$SAFECONDUCT_KEY" --bundle "$SAFECONDUCT_BUNDLE"`
		args := append([]string{"agent", "exec-tls", "acme/planner", "--", "sh", "-c", line, w.program("safeconduct")},
			onMemory(grant, "--target", u.Memory, "--json", "--only", "dropped-hop,past-deadline")...)
		r := w.run(args...)
		lines := strings.Split(strings.TrimSpace(r.out), "\n")
		if r.code != 0 || len(lines) != 4 {
			t.Fatalf("= %+v, want four lines", r)
		}
		for i, want := range []string{`"target":"` + u.Memory + `"`, `"verdict":"REFUSED"`, `"got":"DEADLINE"`, `"summary":{"refused":2`} {
			if !strings.Contains(lines[i], want) || !json.Valid([]byte(lines[i])) {
				t.Errorf("line %d = %s, want %s", i, lines[i], want)
			}
		}
	})
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
		r := as(onMemory(grant, "--target", l.Addr().String(), "--only", "replay")...)
		if !strings.Contains(r.out, "INCONCLUSIVE  45  replay") || !strings.Contains(r.out, "control failed: UNAVAILABLE") {
			t.Errorf("= %s", r.out)
		}
		r.check(t, 1, "1 inconclusive")
	})
	t.Run("another agent at the address", func(t *testing.T) {
		u, err := readUp(w.dir)
		if err != nil {
			t.Fatal(err)
		}
		r := as(onMemory(grant, "--target", u.Authority, "--only", "replay")...) // its certificate names the authority
		if !strings.Contains(r.out, "control failed: UNAVAILABLE") {
			t.Errorf("= %s", r.out)
		}
		r.check(t, 1, "1 inconclusive")
	})
	t.Run("nothing to try", func(t *testing.T) {
		as(onMemory(grant, "--only", "weak-label")...).check(t, 1, "nothing was put to the test")
	})
	t.Run("another purpose", func(t *testing.T) {
		as(onMemory(grant, "--purpose", "mischief")...).check(t, 2, "for another purpose")
	})
	t.Run("nobody is located", func(t *testing.T) {
		as(onMemory(grant, "--peer", "acme/planner")...).check(t, 1, "locating spiffe://safeconduct.local/tenant/acme/agent/planner")
	})
}

func TestAttackUsage(t *testing.T) {
	w := newWorld(t)
	grant := filepath.Join(w.bin, "g")
	raw, err := proto.Marshal(&v1.GrantPayload{Delegate: "spiffe://safeconduct.local/tenant/acme/agent/planner"})
	if err == nil {
		raw, err = proto.Marshal(&v1.SignedStatement{Payload: raw})
	}
	if err == nil {
		err = os.WriteFile(grant, raw, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	files := []string{"--cert", grant, "--key", grant, "--bundle", grant, "--target", "127.0.0.1:1"}
	for _, tt := range []struct {
		name string
		args []string
		want string
	}{
		{"nothing", []string{"attack"}, "--peer, --grant, --purpose, --method"},
		{"no identity", onMemory(grant), "safeconduct agent run ID --"},
		{"half an identity", onMemory(grant, "--cert", grant), "go together"},
		{"no address", onMemory(grant, files[:6]...), "--target HOST:PORT"},
		{"two addresses", onMemory(grant, append(files, "--target", "127.0.0.1:1,127.0.0.1:2")...), "want one"},
		{"a range", onMemory(grant, append(files, "--target", "10.0.0.0/24:7001")...), "no list, range or pattern"},
		{"an identity that is none", onMemory(grant, files...), "certificate and key"},
		{"no such method", onMemory(grant, append(files, "--method", "/a.B/C")...), "--descriptor-set"},
		{"no method", onMemory(grant, append(files, "--method", "List")...), "want /pkg.Service/Method"},
		{"no such name", onMemory(grant, append(files, "--method", "/safeconduct.rpc.v1.MemoryService/Lose")...), "has no method"},
		{"a request that is none", onMemory(grant, append(files, "--request", `{"x":1}`)...), "--request is no safeconduct.rpc.v1.ListRequest"},
		{"descriptors that are none", onMemory(grant, append(files, "--descriptor-set", grant)...), "buf build"},
		{"no grant", onMemory(filepath.Join(w.bin, "none"), files...), "no grant in"},
		{"too many guesses", onMemory(grant, append(files, "--stuffing", "0")...), "want 1 to 1000"},
		{"no time", onMemory(grant, append(files, "--timeout", "0s")...), "--timeout"},
		{"arguments", []string{"attack", "now"}, "no arguments"},
	} {
		t.Run(tt.name, func(t *testing.T) { w.here(tt.args...).check(t, 2, tt.want) })
	}
	if r := w.here("attack", "--list"); r.code != 0 || !strings.Contains(r.out, "replay-race") {
		t.Errorf("attack --list = %+v", r)
	}
	if r := w.here("attack", "--list", "--json"); r.code != 0 || !json.Valid([]byte(r.out)) {
		t.Errorf("attack --list --json = %+v", r)
	}
}

func TestMethodsOfADescriptorSet(t *testing.T) {
	set := &descriptorpb.FileDescriptorSet{}
	seen := map[string]bool{}
	var add func(protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) {
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		set.File = append(set.File, protodesc.ToFileDescriptorProto(fd))
	}
	add(hellov1.File_hello_v1_hello_proto)
	write := func(name string, set *descriptorpb.FileDescriptorSet) string {
		raw, err := proto.Marshal(set)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	md, req, err := callOf("/hello.v1.GreeterService/Greet", `{"name":"Ada"}`, write("all", set))
	if err != nil {
		t.Fatal(err)
	}
	intent, ok := proto.GetExtension(md.Options(), v1.E_Intent).(*v1.MethodIntent)
	if !ok || intent.GetAction() != "hello.greet" {
		t.Errorf("intent = %v, want that of the option", intent)
	}
	raw, err := proto.Marshal(req)
	var hello hellov1.GreetRequest
	if err != nil || proto.Unmarshal(raw, &hello) != nil || hello.GetName() != "Ada" {
		t.Errorf("request = %v, %v", req, err)
	}
	set.File = set.GetFile()[len(set.GetFile())-1:]
	if _, _, err := callOf("/hello.v1.GreeterService/Greet", "{}", write("one", set)); err == nil || !strings.Contains(err.Error(), "--include_imports") {
		t.Errorf("a set without imports = %v", err)
	}
}
