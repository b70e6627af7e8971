package main

import (
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
)

func newAudit() *cobra.Command {
	return group("audit", "Read, join and verify audit logs",
		`Works on folders of logs, offline and beside a running writer. Without a folder: every log below DIR/audit of the state folder.`,
		`  safeconduct audit tail -f
  safeconduct audit explain 0123456789abcdef0123456789abcdef
  safeconduct audit graph --dot | dot -Tsvg > graph.svg
  safeconduct audit verify`,
		newAuditTail(), newAuditShow(), newAuditGraph(), newAuditVerify(), newAuditExplain())
}

// logDirs returns the folders given, or every folder below DIR/audit that holds a log.
func logDirs(cmd *cobra.Command, given []string) ([]string, error) {
	if len(given) > 0 {
		return given, nil
	}
	dir, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	out, err := auditDirs(dir)
	if err == nil && len(out) == 0 {
		err = usagef("no audit logs below %s; name their folders, or the state folder with --dir", filepath.Join(dir, "audit"))
	}
	return out, err
}

// auditDirs returns every folder below DIR/audit that holds a log.
func auditDirs(dir string) ([]string, error) {
	root := filepath.Join(dir, "audit")
	all, err := os.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("looking for audit logs: %w", err)
	}
	var out []string
	for _, e := range all {
		if dir := filepath.Join(root, e.Name()); e.IsDir() && hasSegments(dir) {
			out = append(out, dir)
		}
	}
	return out, nil
}

// hasSegments tells a log, also one that lost other files, from a folder whose owner is only making one.
func hasSegments(dir string) bool {
	found, err := filepath.Glob(filepath.Join(escapeGlob(dir), "seg-*.log"))
	return err == nil && len(found) > 0
}

func escapeGlob(s string) string {
	return strings.NewReplacer(`\`, `\\`, "*", `\*`, "?", `\?`, "[", `\[`).Replace(s)
}

// readLogs returns the records of each log, with what they leave to earlier ones written out.
func readLogs(dirs []string) []iter.Seq2[audit.Record, error] {
	out := make([]iter.Seq2[audit.Record, error], len(dirs))
	for i, dir := range dirs {
		out[i] = audit.Expanded(audit.ReadDir(dir))
	}
	return out
}

// idArg reads a decision, envelope, conversation or interaction id.
func idArg(s string) ([16]byte, error) {
	id, err := audit.ParseID(s)
	if err != nil {
		return id, usagef("%w", err)
	}
	return id, nil
}

// cannotRead says what to do about a log that does not verify.
func cannotRead(err error) error {
	switch {
	case errors.Is(err, audit.ErrTampered):
		return fmt.Errorf("%w; see: safeconduct audit verify", err)
	case errors.Is(err, audit.ErrNotFound):
		return fmt.Errorf("%w; name the folders of all logs that may hold it", err)
	}
	return err
}
