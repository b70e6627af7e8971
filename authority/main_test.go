package authority_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
)

// helperEnv turns the test binary into a workload: it reads commands from stdin and answers each with one line.
const helperEnv = "AUTHORITY_TEST_HELPER"

func TestMain(m *testing.M) {
	if os.Getenv(helperEnv) != "" {
		helper()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// wait bounds everything a test waits for.
const wait = time.Minute

func helper() {
	// A program that was put in this process's place says so: what it is sent earlier may be lost with the old one.
	if os.Getenv(helperEnv) == "again" {
		fmt.Println("again")
	}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		args := strings.Fields(lines.Text())
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		fmt.Println(command(ctx, args[0], args[1:]))
		cancel()
	}
}

func command(ctx context.Context, name string, args []string) string {
	switch name {
	case "fetch": // socket
		return fetch(ctx, args[0])
	case "source": // socket rotations
		var n int
		_, _ = fmt.Sscan(args[1], &n)
		return rotations(ctx, args[0], n)
	case "admit": // socket id pid
		pid := os.Getpid()
		_, _ = fmt.Sscan(args[2], &pid)
		return admit(ctx, args[0], args[1], pid)
	case "child": // command...: the same, one process further down
		cmd := exec.CommandContext(ctx, "/proc/self/exe")
		cmd.Stdin = strings.NewReader(strings.Join(args, " ") + "\n")
		out, err := cmd.Output()
		if err != nil {
			return err.Error()
		}
		return strings.TrimSpace(string(out))
	case "exec": // path: becomes another program, which goes on reading commands
		return becomeOther(args[0])
	case "hold-exec": // socket path: becomes another program that inherits an open stream
		return holdThenExec(ctx, args[0], args[1])
	}
	return "unknown command " + name
}

func dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

func fetch(ctx context.Context, socket string) string {
	conn, err := dial(socket)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		return describe(err)
	}
	r, err := stream.Recv()
	if err != nil {
		return describe(err)
	}
	return r.GetSvids()[0].GetSpiffeId()
}

// holdThenExec leaves a stream open on a descriptor that survives the exec.
func holdThenExec(ctx context.Context, socket, path string) string {
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) {
			c, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: socket, Net: "unix"})
			if err != nil {
				return nil, err
			}
			raw, err := c.SyscallConn()
			if err != nil {
				return nil, err
			}
			return c, raw.Control(func(fd uintptr) { _, err = syscall.Dup(int(fd)) })
		}))
	if err != nil {
		return err.Error()
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true")
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(conn).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		return describe(err)
	}
	if _, err := stream.Recv(); err != nil {
		return describe(err)
	}
	return becomeOther(path)
}

func becomeOther(path string) string {
	if err := os.Setenv(helperEnv, "again"); err != nil {
		return err.Error()
	}
	return syscall.Exec(path, []string{path}, os.Environ()).Error()
}

// rotations counts the different SVIDs that go-spiffe's own source shows.
func rotations(ctx context.Context, socket string, n int) string {
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+socket)))
	if err != nil {
		return err.Error()
	}
	defer source.Close()
	serials := map[string]bool{}
	for {
		svid, err := source.GetX509SVID()
		if err != nil {
			return err.Error()
		}
		if time.Now().After(svid.Certificates[0].NotAfter) {
			return "expired SVID"
		}
		serials[svid.Certificates[0].SerialNumber.String()] = true
		if len(serials) > n {
			return svid.ID.String()
		}
		select {
		case <-source.Updated():
		case <-ctx.Done():
			return fmt.Sprintf("%d rotations", len(serials)-1)
		}
	}
}

func admit(ctx context.Context, socket, id string, pid int) string {
	conn, err := dial(socket)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_, err = rpcv1.NewOperatorServiceClient(conn).AdmitWorkload(ctx, &rpcv1.AdmitWorkloadRequest{SpiffeId: id, Pid: int32(pid)})
	return describe(err)
}

// describe is "Code REASON" or "OK".
func describe(err error) string {
	st := status.Convert(err)
	out := st.Code().String()
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok {
			out += " " + info.GetReason()
		}
	}
	return out
}

// workloadProcess is a running helper.
type workloadProcess struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
}

func startHelper(t *testing.T) *workloadProcess {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), helperEnv+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := &workloadProcess{t: t, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	t.Cleanup(p.stop)
	return p
}

func (p *workloadProcess) pid() int { return p.cmd.Process.Pid }

// do sends one command and returns its answer.
func (p *workloadProcess) do(args ...string) string {
	p.t.Helper()
	p.send(args...)
	return p.answer()
}

func (p *workloadProcess) send(args ...string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, strings.Join(args, " ")+"\n"); err != nil {
		p.t.Fatal(err)
	}
}

func (p *workloadProcess) answer() string {
	p.t.Helper()
	watchdog := time.AfterFunc(2*wait, func() { _ = p.cmd.Process.Kill() })
	defer watchdog.Stop()
	if !p.out.Scan() {
		p.t.Fatalf("helper ended: %v", errors.Join(p.out.Err(), p.cmd.Wait()))
	}
	return p.out.Text()
}

func (p *workloadProcess) stop() {
	_ = p.in.Close()
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}
