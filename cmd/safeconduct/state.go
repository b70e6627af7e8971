package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/internal/operator"
)

const (
	// envDir names the state folder.
	envDir = "SAFECONDUCT_DIR"
	// upName is the file that says what runs on a state folder; there only while it runs, or after a crash.
	upName = "up.json"
	// maxUp bounds up.json, which takes about 500 bytes.
	maxUp = 64 << 10
)

var errNotUp = errors.New("no control plane runs here")

// upState is up.json.
type upState struct {
	PID            int       `json:"pid"`
	TrustDomain    string    `json:"trust_domain"`
	Authority      string    `json:"authority"`
	Memory         string    `json:"memory"`
	Edge           string    `json:"edge,omitempty"`
	WorkloadSocket string    `json:"workload_socket"`
	OperatorSocket string    `json:"operator_socket"`
	Version        string    `json:"version"`
	Started        time.Time `json:"started"`
}

// alive reports whether the process that wrote the file still runs, or one that got its number.
func (u upState) alive() bool { return u.PID > 0 && !errors.Is(syscall.Kill(u.PID, 0), syscall.ESRCH) }

// stateDir returns the absolute path of the state folder that cmd works on. It does not make it.
func stateDir(cmd *cobra.Command) (string, error) {
	dir, err := cmd.Flags().GetString("dir")
	if err != nil {
		return "", fmt.Errorf("flag --dir: %w", err)
	}
	if dir == "" {
		dir = os.Getenv(envDir)
	}
	if dir == "" {
		if state := os.Getenv("XDG_STATE_HOME"); filepath.IsAbs(state) { // the specification says to ignore relative ones
			dir = filepath.Join(state, "safeconduct")
		}
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", usagef("no home folder; name the state folder with --dir or $%s", envDir)
		}
		dir = filepath.Join(home, ".local", "state", "safeconduct")
	}
	dir, err = filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("state folder: %w", err)
	}
	return dir, nil
}

// readUp reads up.json. The error wraps errNotUp when there is none.
func readUp(dir string) (upState, error) {
	var u upState
	raw, err := readBounded(filepath.Join(dir, upName), maxUp)
	if errors.Is(err, fs.ErrNotExist) {
		return u, fmt.Errorf("%w: %s; start it with: safeconduct up --dir %s", errNotUp, dir, quote(dir))
	}
	if err != nil {
		return u, err
	}
	if err := json.Unmarshal(raw, &u); err != nil {
		return u, fmt.Errorf("%s is damaged (%w); end safeconduct up and start it again", filepath.Join(dir, upName), err)
	}
	return u, nil
}

// writeUp makes up.json anew.
func writeUp(dir string, u upState) error {
	raw, err := json.MarshalIndent(u, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", upName, err)
	}
	return replaceFile(filepath.Join(dir, upName), append(raw, '\n'))
}

// replaceFile puts a file of mode 0600 in place as a whole: readers see the old bytes or the new ones.
func replaceFile(path string, data []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

// session is a running control plane and the operator's way to it.
type session struct {
	*operator.Client
	dir string
	up  upState
}

// connect opens the operator socket of the control plane on the state folder.
func connect(cmd *cobra.Command) (*session, error) {
	dir, err := stateDir(cmd)
	if err != nil {
		return nil, err
	}
	u, err := readUp(dir)
	if err != nil {
		return nil, err
	}
	c, err := operator.Dial(u.OperatorSocket)
	if err != nil {
		return nil, err
	}
	return &session{Client: c, dir: dir, up: u}, nil
}

// agentID reads "spiffe://…" or the short form tenant/name of the control plane's trust domain.
func (u upState) agentID(s string) (identity.AgentID, error) {
	full := s
	if tenant, name, ok := strings.Cut(s, "/"); ok && !strings.Contains(s, ":") {
		full = "spiffe://" + u.TrustDomain + "/tenant/" + tenant + "/agent/" + name
	}
	id, err := identity.ParseAgent(full)
	if err != nil || id.IsService() {
		return identity.AgentID{}, usagef("%q is no agent: want spiffe://%s/tenant/T/agent/N or T/N", s, u.TrustDomain)
	}
	return id, nil
}

// auditDir is where an agent started here keeps its log: tenant-name. Both may hold hyphens, so those of the tenant are written
// as underscores, which no name has: two agents never share a folder.
func auditDir(dir string, id identity.AgentID) string {
	return filepath.Join(dir, "audit", strings.ReplaceAll(id.Tenant().Name(), "-", "_")+"-"+id.Name())
}
