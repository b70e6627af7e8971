package intruder

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"time"

	workloadpb "github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	"github.com/safeconduct/safeconduct/identity"
)

// firstWord is how long a server may take to speak or to close after the handshake: HTTP/2 servers send SETTINGS at once, and
// those that wait for the client's preface get it after this.
const firstWord = time.Second

// preface opens an HTTP/2 connection with an empty SETTINGS frame (RFC 9113, section 3.4).
const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"

// forgedID attacks on the transport. A TLS 1.3 client has finished its handshake before the server looks at its certificate, so
// the refusal is an alert on the first read, and no reason can come with it.
func forgedID(ctx context.Context, x *intruder) (finding, error) {
	_, twin, err := x.own()
	if err != nil {
		return finding{}, err
	}
	forged, err := rogueCertificate(x.cfg.Sibling, x.cfg.Now())
	if err != nil {
		return finding{}, err
	}
	cc, err := x.dial()
	if err != nil {
		return finding{}, err
	}
	defer func() { _ = cc.Close() }()
	f := finding{twin: deliver(ctx, cc, twin)}
	if !f.twin.admitted() {
		return f, nil
	}
	cfg := identity.ClientTLS(x.cfg.Source, x.cfg.Target)
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return forged, nil }
	a := x.knock(ctx, cfg)
	f.mutations = []answer{a}
	if a.got == peerUnverified {
		f.note = fmt.Sprintf("the handshake was refused (%s), so no decision id can come back: look for TRANSPORT_REFUSED in the receiver's audit log", a.text)
	}
	return f, nil
}

// knock connects and waits for the server's first word.
func (x *intruder) knock(ctx context.Context, cfg *tls.Config) answer {
	raw, err := x.connect(ctx, x.cfg.TargetAddr)
	if err != nil {
		return answerOf(status.Error(codes.Unavailable, err.Error()))
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, cfg)
	if err := conn.HandshakeContext(ctx); err != nil {
		return heard(err)
	}
	// Nothing is written before the server has spoken: data that it does not read could make it reset the connection, and the
	// alert would be lost.
	err = read(ctx, conn)
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		if _, err := io.WriteString(conn, preface); err != nil {
			return heard(err)
		}
		err = read(ctx, conn)
	}
	return heard(err)
}

func read(ctx context.Context, conn net.Conn) error {
	until := time.Now().Add(firstWord)
	if end, bounded := ctx.Deadline(); bounded && end.Before(until) {
		until = end
	}
	if err := conn.SetReadDeadline(until); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, make([]byte, 1))
	return err
}

// heard reads how a connection attempt ended. Only an alert about the certificate is a refusal of the identity; a connection that
// just ends could be anything.
func heard(err error) answer {
	var op *net.OpError
	var timeout net.Error
	switch {
	case err == nil:
		return ok()
	case errors.As(err, &op) && op.Op == "remote error" && aboutCertificate(op.Err.Error()):
		return answer{got: peerUnverified, code: codes.Unauthenticated, text: op.Err.Error()}
	case errors.As(err, &timeout) && timeout.Timeout():
		return answerOf(status.Error(codes.DeadlineExceeded, err.Error()))
	}
	return answerOf(status.Error(codes.Unavailable, err.Error()))
}

// aboutCertificate knows the alerts of RFC 8446, section 6.2, that refuse a certificate, in the words of crypto/tls.
func aboutCertificate(alert string) bool {
	for _, words := range []string{
		"bad certificate", "unsupported certificate", "unknown certificate", "certificate required", "access denied",
	} {
		if strings.Contains(alert, words) {
			return true
		}
	}
	return false
}

// siblingSVID asks the authority to be somebody else.
func siblingSVID(ctx context.Context, x *intruder) (finding, error) {
	var f finding
	if f.twin = x.onlyOwn(ctx); !f.twin.admitted() {
		return f, nil
	}
	cc, err := grpc.NewClient(socket(x.cfg.OperatorSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return finding{}, fmt.Errorf("operator socket: %w", err)
	}
	defer func() { _ = cc.Close() }()
	_, err = rpcv1.NewOperatorServiceClient(cc).AdmitWorkload(ctx, &rpcv1.AdmitWorkloadRequest{
		SpiffeId: x.cfg.Sibling.String(), Pid: int32(os.Getpid()), //nolint:gosec // G115: process numbers are below 2^22.
	})
	f.mutations = []answer{answerOf(err)}
	f.note = "the record is in the authority's audit log"
	switch after := x.onlyOwn(ctx); {
	case after.admitted():
	case after.got == somebodyElse: // whatever the operator socket said, what counts is whom the process can be now
		f.mutations = []answer{after}
	default:
		f.mutations = append(f.mutations, answerOf(status.Error(codes.Unavailable, "afterwards the Workload API said "+after.String())))
	}
	return f, nil
}

// somebodyElse is what Got says when an identity was issued that is not the intruder's.
const somebodyElse = "FOREIGN_SVID"

// onlyOwn asks the Workload API who this process is; the answer is ok when it is the intruder and nobody else.
func (x *intruder) onlyOwn(ctx context.Context) answer {
	cc, err := grpc.NewClient(socket(x.cfg.WorkloadSocket), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return answerOf(status.Error(codes.Unavailable, err.Error()))
	}
	defer func() { _ = cc.Close() }()
	ctx, cancel := context.WithCancel(metadata.AppendToOutgoingContext(ctx, "workload.spiffe.io", "true"))
	defer cancel()
	stream, err := workloadpb.NewSpiffeWorkloadAPIClient(cc).FetchX509SVID(ctx, &workloadpb.X509SVIDRequest{})
	if err != nil {
		return answerOf(err)
	}
	r, err := stream.Recv()
	if err != nil {
		return answerOf(err)
	}
	for _, s := range r.GetSvids() {
		if s.GetSpiffeId() != x.cfg.Self.String() {
			return answer{got: somebodyElse, text: "the Workload API issued " + s.GetSpiffeId()}
		}
	}
	if len(r.GetSvids()) == 0 {
		return answerOf(status.Error(codes.Internal, "the Workload API issued nothing"))
	}
	return ok()
}

func socket(path string) string { return "unix:" + strings.TrimPrefix(path, "unix://") }
