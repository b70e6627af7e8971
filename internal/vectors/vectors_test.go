package vectors_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/safeconduct/safeconduct/internal/vectors"
)

// folder is where the vectors are committed.
const folder = "../../conformance/vectors"

// read reads the committed files.
func read(t *testing.T) []*vectors.File {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(folder, "*.json"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no vectors: %v", err)
	}
	var files []*vectors.File
	for _, p := range paths {
		if filepath.Base(p) == "notrun.json" {
			continue
		}
		f := new(vectors.File)
		decode(t, p, f)
		files = append(files, f)
	}
	return files
}

func decode(t *testing.T, path string, into any) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestCommitted holds the committed files against what the generator makes now.
func TestCommitted(t *testing.T) {
	want, err := vectors.Encode()
	if err != nil {
		t.Fatal(err)
	}
	again, err := vectors.Encode()
	if err != nil {
		t.Fatal(err)
	}
	total := 0
	for name, text := range want {
		total += len(text)
		if !bytes.Equal(text, again[name]) {
			t.Errorf("%s is not generated the same twice", name)
		}
		have, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil || !bytes.Equal(have, text) {
			t.Errorf("%s is not what the generator makes (%v): run make vectors", name, err)
		}
	}
	entries, err := os.ReadDir(folder)
	if err != nil || len(entries) != len(want) {
		t.Errorf("%d files committed, %d generated, %v", len(entries), len(want), err)
	}
	if total > 4_000_000 {
		t.Errorf("%d bytes of vectors, want at most 4 MB", total)
	}
}

// TestRows holds the rows of the vectors and those that are listed as not run against the matrix: none is silently absent.
func TestRows(t *testing.T) {
	have := map[int]int{}
	for _, f := range read(t) {
		for _, v := range f.Vectors {
			have[v.Row]++
		}
	}
	absent := new(vectors.NotRun)
	decode(t, filepath.Join(folder, "notrun.json"), absent)
	listed := map[int]bool{}
	for _, a := range absent.Rows {
		listed[a.Row] = true
		if a.Part == "" && have[a.Row] > 0 {
			t.Errorf("row %d is listed as not run and has %d vectors", a.Row, have[a.Row])
		}
		if a.WaitsFor == "" {
			t.Errorf("row %d waits for nothing", a.Row)
		}
	}
	for row := 1; row <= 64; row++ {
		if have[row] == 0 && !listed[row] {
			t.Errorf("row %d has no vector and is not listed", row)
		}
		t.Logf("row %2d: %d vectors", row, have[row])
	}
}

// TestControls holds every refusal against the vector that differs from it in one thing: that one passes.
func TestControls(t *testing.T) {
	all := map[string]*vectors.Vector{}
	for _, f := range read(t) {
		for _, v := range f.Vectors {
			if all[v.ID] != nil {
				t.Errorf("%s twice", v.ID)
			}
			all[v.ID] = v
		}
	}
	for id, v := range all {
		if len(v.Steps) > 1 || v.Steps[0].Expect == vectors.Allow || v.Steps[0].Sweep != nil {
			continue
		}
		control := all[v.Control]
		if control == nil || len(control.Steps) != 1 || control.Steps[0].Expect != vectors.Allow {
			t.Errorf("%s: control %q is no vector that passes", id, v.Control)
		}
	}
}

// TestSteps holds every step against what the specification promises of its fields.
func TestSteps(t *testing.T) {
	groups := map[string]bool{}
	for _, f := range read(t) {
		groups[f.Group] = true
		for _, v := range f.Vectors {
			for i, st := range v.Steps {
				if (st.Message != nil || st.Proof != nil) && st.Intent == nil {
					t.Errorf("%s step %d: a message or a proof without an intent", v.ID, i)
				}
				if st.Message != nil && st.Proof != nil {
					t.Errorf("%s step %d: a message and a proof", v.ID, i)
				}
				if (st.Op == vectors.OpPresent) != (st.Chain != "") || (st.Op == vectors.OpPresent && len(st.Reference) > 0) {
					t.Errorf("%s step %d: op %s with chain %q and a reference of %d bytes", v.ID, i, st.Op, st.Chain, len(st.Reference))
				}
			}
		}
	}
	if len(groups) != 12 {
		t.Errorf("%d groups, the specification lists 12", len(groups))
	}
}

// TestVectors runs every vector through the verifier and demands exactly the expected code.
func TestVectors(t *testing.T) {
	for _, f := range read(t) {
		t.Run(f.Group, func(t *testing.T) {
			t.Parallel()
			if f.Format != vectors.Format {
				t.Fatalf("format %q", f.Format)
			}
			for _, v := range f.Vectors {
				newRun(t, f, v).all()
			}
		})
	}
}
