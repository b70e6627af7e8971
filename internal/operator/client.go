package operator

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
)

const (
	// maxAnswer lets a list of the largest registry through: 4096 agents of at most 2 KiB, and a margin.
	maxAnswer = 16 << 20
	// callTimeout bounds one call: the longest, AdmitWorkload, hashes an executable of at most 1 GiB.
	callTimeout = 30 * time.Second
	// maxSocketPath is what fits sun_path on Linux: 108 bytes with the closing zero.
	maxSocketPath = 107
)

// Client calls OperatorService. It is safe for concurrent use. A call ends after 30 s at the latest; its errors wrap ErrUnreachable
// or are an [*Error].
type Client struct {
	path string
	conn *grpc.ClientConn
	rpc  rpcv1.OperatorServiceClient
}

// Dial returns a client of the operator socket at path. It connects at the first call. Errors wrap ErrSocketPath. The socket is
// local and its server reads the caller's identity from the kernel, so the connection carries no credentials.
func Dial(path string) (*Client, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSocketPath, err)
	}
	if len(path) > maxSocketPath {
		return nil, fmt.Errorf("%w: %s has %d bytes, at most %d fit a unix socket address", ErrSocketPath, path, len(path), maxSocketPath)
	}
	conn, err := grpc.NewClient("passthrough:///operator",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", path)
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("operator socket %s: %w", path, err)
	}
	return &Client{path: path, conn: conn, rpc: rpcv1.NewOperatorServiceClient(conn)}, nil
}

// Close ends the connection.
func (c *Client) Close() error { return c.conn.Close() }

// RegisterAgent registers an agent and returns its record.
func (c *Client) RegisterAgent(ctx context.Context, r *rpcv1.RegisterAgentRequest) (*rpcv1.RegisterAgentResponse, error) {
	return call(ctx, c, c.rpc.RegisterAgent, r)
}

// ListAgents lists all records.
func (c *Client) ListAgents(ctx context.Context) (*rpcv1.ListAgentsResponse, error) {
	return call(ctx, c, c.rpc.ListAgents, &rpcv1.ListAgentsRequest{})
}

// AdmitWorkload ties a running process to a registered agent. The caller vouches that the process is the one it means.
func (c *Client) AdmitWorkload(ctx context.Context, r *rpcv1.AdmitWorkloadRequest) (*rpcv1.AdmitWorkloadResponse, error) {
	return call(ctx, c, c.rpc.AdmitWorkload, r)
}

// IssueGrant signs the root of a delegation chain.
func (c *Client) IssueGrant(ctx context.Context, r *rpcv1.IssueGrantRequest) (*rpcv1.IssueGrantResponse, error) {
	return call(ctx, c, c.rpc.IssueGrant, r)
}

// ActivateTable puts a signed capability table in force.
func (c *Client) ActivateTable(ctx context.Context, r *rpcv1.ActivateTableRequest) (*rpcv1.ActivateTableResponse, error) {
	return call(ctx, c, c.rpc.ActivateTable, r)
}

// EditTable removes and adds rows of the capability table.
func (c *Client) EditTable(ctx context.Context, r *rpcv1.EditTableRequest) (*rpcv1.EditTableResponse, error) {
	return call(ctx, c, c.rpc.EditTable, r)
}

// Status describes the authority.
func (c *Client) Status(ctx context.Context) (*rpcv1.StatusResponse, error) {
	return call(ctx, c, c.rpc.Status, &rpcv1.StatusRequest{})
}

func call[Req, Resp any](ctx context.Context, c *Client, fn func(context.Context, Req, ...grpc.CallOption) (Resp, error), r Req) (Resp, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := fn(ctx, r)
	return resp, c.unwrap(err)
}
