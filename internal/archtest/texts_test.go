package archtest_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/safeconduct/safeconduct/internal/archtest"
)

func TestCheckText(t *testing.T) {
	// home keeps the inputs from being found in this file.
	const home = "/" + "home/"
	tests := []struct {
		name, file, input string
		want              []string
	}{
		{"clean", "a.md", "see docs/THREATS.md and /var/lib/safeconduct\n", nil},
		{"a home folder", "a.md", "ok\nrun " + home + "kim/bin/x\n", []string{"a.md:2: names a path of one machine: " + home + "kim"}},
		{"the folder of root", "a.go", "const dir = \"/" + "root/x\"\n", []string{"a.go:1: names a path of one machine: /" + "root"}},
		{"a job folder", "a.txt", "/" + "tmp/bash_jobs.0/1", []string{"a.txt:1: names a path of one machine: /" + "tmp/bash_jobs"}},
		{"a URL", "a.md", "https://example.org" + home + "page\n", nil},
		{"a word that begins alike", "a.md", "the path /" + "rooted\n", nil},
		{"a checksum file", "tools/go.sum", "h1:x" + " /" + "root/\n", nil},
		{"a binary", "a.bin", "\x00 /" + "root/\n", nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, archtest.CheckText(tt.file, []byte(tt.input))); diff != "" {
				t.Errorf("CheckText(%q): (-want +got)\n%s", tt.input, diff)
			}
		})
	}
}

func TestCheckTestCommand(t *testing.T) {
	const (
		readme    = "# Title\n```\nmake test\n```\n"
		ci        = "set -e\nmake test 2>&1 | sed /x/d # make check would be more\n"
		noReadme  = `README.md: no line is the test command "make test"`
		wantOneCI = `want exactly "make test"`
	)
	tests := []struct {
		name, readme, ci string
		want             []string
	}{
		{"agree", readme, ci, nil},
		{"agree after a prompt", "$ make test\n", "exec make test\n", nil},
		{"README is silent", "# Title\nrun make test to test\n", ci, []string{noReadme}},
		{"CI runs another target", readme, "make check\n", []string{`.ci/run: runs ["make check"], ` + wantOneCI}},
		{"CI runs less", readme, "make test PKG=./identity\n", []string{`.ci/run: runs ["make test PKG=./identity"], ` + wantOneCI}},
		{"CI runs more", readme, "make test\nmake lint\n", []string{`.ci/run: runs ["make test" "make lint"], ` + wantOneCI}},
		{"CI runs nothing", readme, "# make test\n", []string{`.ci/run: runs [], ` + wantOneCI}},
		{"both differ", "", "true\n", []string{noReadme, `.ci/run: runs [], ` + wantOneCI}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, archtest.CheckTestCommand(tt.readme, tt.ci)); diff != "" {
				t.Errorf("CheckTestCommand(%q, %q): (-want +got)\n%s", tt.readme, tt.ci, diff)
			}
		})
	}
}
