package archtest

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"strings"
)

// foreignPaths are absolute paths of somebody's machine. They are written so that this file does not match.
var foreignPaths = regexp.MustCompile(`(?:^|[^\w./-])(/(?:root|tmp/bash\w*|work/(?:main|shared)|home/[a-z][\w-]*|Users/\w+))(?:/|\b)`)

// CheckText returns the violations in one tracked file: absolute paths of the machine it was written on. Binary files,
// checksum files and test data are passed over.
func CheckText(name string, text []byte) []string {
	if path.Base(name) == "go.sum" || strings.Contains(name, "/testdata/") || bytes.IndexByte(text, 0) >= 0 {
		return nil
	}
	var out []string
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if m := foreignPaths.FindSubmatch(line); m != nil {
			out = append(out, fmt.Sprintf("%s:%d: names a path of one machine: %s", name, n, m[1]))
		}
	}
	return out
}

// testCommand is the one command that runs the tests, in the README and in CI.
const testCommand = "make test"

var makeCall = regexp.MustCompile(`\bmake(?:\s+[^\s|;&<>]+)*`)

// CheckTestCommand returns the violations when README.md does not print the test command on a line of its own, or when .ci/run
// runs another make command or none.
func CheckTestCommand(readme, ciRun string) []string {
	var out []string
	printed := false
	for line := range strings.Lines(readme) {
		printed = printed || strings.TrimPrefix(strings.TrimSpace(line), "$ ") == testCommand
	}
	if !printed {
		out = append(out, fmt.Sprintf("README.md: no line is the test command %q", testCommand))
	}
	var calls []string
	for line := range strings.Lines(ciRun) {
		if code, _, _ := strings.Cut(line, "#"); code != "" {
			calls = append(calls, trimRedirect(makeCall.FindAllString(code, -1))...)
		}
	}
	if len(calls) != 1 || calls[0] != testCommand {
		out = append(out, fmt.Sprintf(".ci/run: runs %q, want exactly %q", calls, testCommand))
	}
	return out
}

// trimRedirect drops the file descriptor that the pattern of make calls takes along from make test 2>&1.
func trimRedirect(calls []string) []string {
	for i, c := range calls {
		calls[i] = strings.TrimSuffix(c, " 2")
	}
	return calls
}
