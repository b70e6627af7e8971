package proto_test

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	// The generated packages register the files that Files must hold.
	_ "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	_ "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/proto"
)

func TestFilesHoldsEveryGeneratedFile(t *testing.T) {
	held := map[string]bool{}
	err := fs.WalkDir(proto.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			held[path] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	generated := map[string]bool{}
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if strings.HasPrefix(f.Path(), "safeconduct/") {
			generated[f.Path()] = true
		}
		return true
	})
	if diff := cmp.Diff(generated, held); diff != "" {
		t.Errorf("Files: (-generated +held)\n%s", diff)
	}
}

// A repository that knows only Files and the Go module declares intents, generates typed stubs with the pinned plugins, and reads
// the intents back. No network is used for the foreign module.
func TestForeignRepositoryGeneratesGoStubs(t *testing.T) {
	tools := buildTools(t, "github.com/bufbuild/buf/cmd/buf", "google.golang.org/protobuf/cmd/protoc-gen-go",
		"google.golang.org/grpc/cmd/protoc-gen-go-grpc", "connectrpc.com/connect/cmd/protoc-gen-connect-go")
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "proto"), proto.Files); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "proto", "acme", "greeter", "v1", "greeter.proto"), read(t, "testdata/greeter.proto.txt"))
	write(t, filepath.Join(dir, "buf.yaml"), "version: v2\nmodules:\n  - path: proto\n")
	write(t, filepath.Join(dir, "buf.gen.yaml"), bufGen(tools))
	run(t, dir, nil, filepath.Join(tools, "buf"), "generate", "--path", "proto/acme")

	writeModule(t, dir)
	// The foreign module finds all it needs in what this module's go.sum names.
	env := []string{"GOFLAGS=-mod=mod", "GOWORK=off", "GOPROXY=off"}
	run(t, dir, env, "go", "vet", "./...")
	got := run(t, dir, env, "go", "run", ".")
	want := "51807 Greet acme.greet [greet] who 1\n" +
		"51807 GreetMany acme.greet_many []  0\n" +
		"51808 who true\n"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("intents read by the foreign program: (-want +got)\n%s", diff)
	}
}

// buildTools builds pinned tools into the folder that make uses, where an up-to-date tool is left alone, and returns it.
func buildTools(t *testing.T, packages ...string) string {
	t.Helper()
	bin, err := filepath.Abs("../bin")
	if err != nil {
		t.Fatal(err)
	}
	run(t, "../tools", nil, "go", append([]string{"build", "-o", bin + string(filepath.Separator)}, packages...)...)
	return bin
}

func bufGen(tools string) string {
	text := "version: v2\nplugins:\n"
	for _, p := range []struct{ name, opt string }{
		{"protoc-gen-go", "paths=source_relative"},
		{"protoc-gen-go-grpc", "paths=source_relative"},
		{"protoc-gen-connect-go", "paths=source_relative,simple"},
	} {
		text += fmt.Sprintf("  - local: %q\n    out: gen\n    opt: %s\n", filepath.Join(tools, p.name), p.opt)
	}
	return text
}

// writeModule makes dir a Go module that requires this one, with the versions and checksums of this one.
func writeModule(t *testing.T, dir string) {
	t.Helper()
	repo, err := filepath.Abs("..")
	if err != nil {
		t.Fatal(err)
	}
	mod := read(t, "../go.mod")
	mod = strings.Replace(mod, "module github.com/safeconduct/safeconduct", "module acme.example/greeter", 1)
	mod += fmt.Sprintf("\nrequire github.com/safeconduct/safeconduct v0.0.0\n\nreplace github.com/safeconduct/safeconduct => %s\n", repo)
	write(t, filepath.Join(dir, "go.mod"), mod)
	write(t, filepath.Join(dir, "go.sum"), read(t, "../go.sum"))
	write(t, filepath.Join(dir, "main.go"), read(t, "testdata/main.go.txt"))
}

// run runs a command in dir with env added to the environment, and returns what it writes to standard output.
func run(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Stderr = &stderr
	cmd.Env = append(os.Environ(), env...)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, stderr.String())
	}
	return string(out)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
