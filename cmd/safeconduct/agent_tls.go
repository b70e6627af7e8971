package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/runtime"
)

// firstExtra is the number of the first file that a child inherits beside its standard three.
const firstExtra = 3

func newAgentTLS() *cobra.Command {
	cmd := &cobra.Command{
		Use: "exec-tls ID -- CMD [ARGS]", Short: "Run a program with an agent's certificate and key as files",
		Long: `Becomes the agent ID, fetches its certificate from the Workload API and starts CMD with three inherited files in memory, in PEM:
the certificate chain, the private key and the trust bundle. Their names are in SAFECONDUCT_CERT, SAFECONDUCT_KEY and
SAFECONDUCT_BUNDLE (/proc/self/fd/3, 4 and 5). The key never touches a disk and ends with CMD. CMD itself is no agent: it
speaks TLS as ID, and gets no new certificate when this one ends.`,
		Example: `  safeconduct agent exec-tls acme/planner -- sh -c 'curl --cert "$SAFECONDUCT_CERT" --key "$SAFECONDUCT_KEY" --cacert "$SAFECONDUCT_BUNDLE" https://memory.service.safeconduct.local:7002/'`,
		Args:    between(2, -1, "an agent and a command"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return actAs(cmd, args, args[0], func(identity.AgentID) error { return nil }, func(s *session, id identity.AgentID) error { return s.execTLS(cmd, id, args[1:]) })
		},
	}
	addAdmitted(cmd)
	return cmd
}

// execTLS runs argv with the identity of this process as files.
func (s *session) execTLS(cmd *cobra.Command, id identity.AgentID, argv []string) error {
	child := standard(cmd, exec.Command(argv[0], argv[1:]...)) //nolint:gosec // G204: the operator names the program
	child.Env = os.Environ()
	pems, err := s.credentials(cmd.Context(), id)
	if err != nil {
		return err
	}
	for i, f := range []struct{ env, name string }{
		{"SAFECONDUCT_CERT", "cert.pem"}, {"SAFECONDUCT_KEY", "key.pem"}, {"SAFECONDUCT_BUNDLE", "bundle.pem"},
	} {
		file, err := memoryFile(f.name, pems[i])
		if err != nil {
			return err
		}
		defer file.Close() //nolint:errcheck // nothing is lost with it
		child.ExtraFiles = append(child.ExtraFiles, file)
		child.Env = append(child.Env, fmt.Sprintf("%s=/proc/self/fd/%d", f.env, firstExtra+i))
	}
	return launch(child, func(int) error { return nil })
}

// credentials fetches certificate chain, key and trust bundle of id, each in PEM.
func (s *session) credentials(ctx context.Context, id identity.AgentID) (pems [3][]byte, err error) {
	src, err := runtime.WorkloadAPI(ctx, "unix://"+s.up.WorkloadSocket, id.String())
	if err != nil {
		return pems, err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	svid, err := src.GetX509SVID()
	if err != nil {
		return pems, fmt.Errorf("own certificate: %w", err)
	}
	if pems[0], pems[1], err = svid.Marshal(); err != nil {
		return pems, fmt.Errorf("own certificate: %w", err)
	}
	bundle, err := src.GetX509BundleForTrustDomain(id.TrustDomain())
	if err != nil {
		return pems, fmt.Errorf("trust bundle: %w", err)
	}
	if pems[2], err = bundle.Marshal(); err != nil {
		return pems, fmt.Errorf("trust bundle: %w", err)
	}
	return pems, nil
}

// memoryFile is a sealed file that exists only in memory.
func memoryFile(name string, data []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), name)
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(0o400)
	}
	if err == nil {
		_, err = f.Seek(0, 0)
	}
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("making a file in memory: %w", err), f.Close())
	}
	return f, nil
}
