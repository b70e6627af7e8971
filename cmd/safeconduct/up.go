package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/authority"
	"github.com/safeconduct/safeconduct/internal/plane"
)

// unixScheme starts the address of a unix socket.
const unixScheme = "unix://"

// upOptions are the flags of up.
type upOptions struct {
	cfg    plane.Config
	remote bool
	debug  bool
}

func newUp() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use: "up", Short: "Run a development control plane: authority, Workload API and shared memory",
		Long: `Runs the authority with its embedded trust domain, the SPIFFE Workload API, the operator socket and shared memory in this
process, on loopback, until it gets SIGINT or SIGTERM; then it drains. Keys, registry, memory and audit logs stay in the state
folder. For development: whoever runs programs as this user controls the trust domain.`,
		Example: `  safeconduct up
  safeconduct up --dir /tmp/sc --trust-domain dev.example --authority-listen 127.0.0.1:7001 --memory-listen 127.0.0.1:7002`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error { return runUp(cmd, o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.cfg.TrustDomain, "trust-domain", "safeconduct.local", "name of the trust domain; a state folder keeps its first one")
	f.StringVar(&o.cfg.AuthorityListen, "authority-listen", "", "host:port of the authority (default a free port on loopback)")
	f.StringVar(&o.cfg.MemoryListen, "memory-listen", "", "host:port of shared memory (default a free port on loopback)")
	f.StringVar(&o.cfg.MemoryEdge, "edge", "", "host:port where Connect and gRPC-Web clients reach memory (default nowhere)")
	f.BoolVar(&o.remote, "dev-authority-remote", false, "allow listening on addresses that other hosts reach")
	f.StringVar(&o.cfg.WorkloadAPI, "workload-api", "", "unix:///path: SVIDs come from this SPIFFE Workload API, such as a SPIRE agent's; the embedded one is not used")
	f.DurationVar(&o.cfg.SVIDLifetime, "svid-ttl", authority.DefaultSVIDLifetime, "lifetime of certificates")
	f.Float64Var(&o.cfg.AgentBudget.Rate, "agent-rate", 0, "calls per second of one agent (default of the enforcement core when 0)")
	f.IntVar(&o.cfg.AgentBudget.Burst, "agent-burst", 0, "calls of one agent at once (default of the enforcement core when 0)")
	f.Int64Var(&o.cfg.AgentBudget.InFlight, "agent-inflight", 0, "calls of one agent in flight (default of the enforcement core when 0)")
	f.BoolVar(&o.debug, "verbose", false, "log what happens, not only warnings")
	return cmd
}

func runUp(cmd *cobra.Command, o upOptions) error {
	dir, err := stateDir(cmd)
	if err != nil {
		return err
	}
	if err := o.check(); err != nil {
		return err
	}
	if err := privateDir(dir); err != nil {
		return err
	}
	level := slog.LevelWarn
	if o.debug {
		level = slog.LevelInfo
	}
	o.cfg.Dir, o.cfg.Version = dir, build().Version
	o.cfg.Logger = slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	p, err := plane.Start(ctx, o.cfg)
	if err != nil {
		return explainStart(dir, err)
	}
	err = announce(ctx, cmd, p, o, stop)
	return errors.Join(err, p.Close())
}

// announce says where the plane is until ctx ends.
func announce(ctx context.Context, cmd *cobra.Command, p *plane.Plane, o upOptions, stop func()) error {
	dir := o.cfg.Dir
	u := upState{
		PID: os.Getpid(), TrustDomain: o.cfg.TrustDomain, Authority: p.AuthorityAddr(), Memory: p.MemoryAddr(), Edge: o.cfg.MemoryEdge,
		WorkloadSocket: strings.TrimPrefix(p.WorkloadAPI(), unixScheme), OperatorSocket: p.Authority.OperatorSocket(),
		Version: o.cfg.Version, Started: time.Now().UTC(),
	}
	if err := writeTrust(dir, p.Authority.Bundle()); err != nil {
		return err
	}
	if err := writeUp(dir, u); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() { followTrust(ctx, dir, p, o.cfg.Logger) })
	err := errors.Join(
		say(cmd, "trust domain %s is up, state in %s", u.TrustDomain, dir),
		say(cmd, "  authority  %s\n  memory     %s", u.Authority, u.Memory),
		say(cmd, "  workload API  unix://%s", u.WorkloadSocket),
		say(cmd, "This is a development authority: whoever runs programs as this user controls it."),
		say(cmd, "Next, in another terminal:"),
		say(cmd, "  safeconduct%s agent register planner --tenant acme --class planner --owner you@example.com --purpose \"plans work\"", dirFlag(cmd, dir)),
		say(cmd, "  safeconduct%s doctor", dirFlag(cmd, dir)),
	)
	if err == nil {
		<-ctx.Done()
		note(cmd, "safeconduct: draining; a second signal ends at once")
	}
	stop()
	wg.Wait()
	return errors.Join(err, os.Remove(filepath.Join(dir, upName)))
}

// dirFlag repeats --dir in a line to copy, when it was given.
func dirFlag(cmd *cobra.Command, dir string) string {
	if f := cmd.Flags().Lookup("dir"); f == nil || !f.Changed {
		return ""
	}
	return " --dir " + quote(dir)
}

func (o upOptions) check() error {
	for flag, addr := range map[string]string{
		"--authority-listen": o.cfg.AuthorityListen, "--memory-listen": o.cfg.MemoryListen, "--edge": o.cfg.MemoryEdge,
	} {
		if addr == "" {
			continue
		}
		host, _, err := net.SplitHostPort(addr)
		if err != nil {
			return usagef("%s: %q is not host:port", flag, addr)
		}
		if ip := net.ParseIP(host); !o.remote && host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return usagef("%s %s is no loopback address: a development authority serves this host only; to serve others add --dev-authority-remote", flag, addr)
		}
	}
	if path, ok := strings.CutPrefix(o.cfg.WorkloadAPI, unixScheme); o.cfg.WorkloadAPI != "" && (!ok || !filepath.IsAbs(path)) {
		return usagef("--workload-api %s: want unix:// and an absolute path", quote(o.cfg.WorkloadAPI))
	}
	if b := o.cfg.AgentBudget; b.Rate < 0 || b.Burst < 0 || b.InFlight < 0 {
		return usagef("--agent-rate, --agent-burst and --agent-inflight are not negative")
	}
	return nil
}

// privateDir makes dir with mode 0700, or checks that nobody else can enter it.
func privateDir(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("state folder: %w; name another one with --dir", err)
	}
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("state folder: %w", err)
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("state folder %s is open to others (mode %#o) and will hold keys; close it with: chmod 700 %s", dir, perm, quote(dir))
	}
	return nil
}

// explainStart says what to do about a plane that does not start.
func explainStart(dir string, err error) error {
	switch {
	case errors.Is(err, audit.ErrLocked), errors.Is(err, authority.ErrLocked), errors.Is(err, authority.ErrSocketBusy):
		who := "another safeconduct up"
		if u, readErr := readUp(dir); readErr == nil && u.alive() {
			who += fmt.Sprintf(" (pid %d)", u.PID)
		}
		return fmt.Errorf("%s runs on %s already; use it, end it, or name another folder with --dir", who, dir)
	case errors.Is(err, authority.ErrSocketPath):
		return fmt.Errorf("%w; name a shorter state folder with --dir", err)
	case errors.Is(err, authority.ErrForeign), errors.Is(err, audit.ErrForeign):
		return fmt.Errorf("%w; start it with the --trust-domain it was made with, or name another folder with --dir", err)
	case errors.Is(err, authority.ErrConfig):
		return usagef("%w", err)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("%w; choose another port with --authority-listen, --memory-listen or --edge", err)
	}
	return fmt.Errorf("starting the control plane: %w", err)
}
