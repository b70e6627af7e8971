package incident

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
	rpcv1 "github.com/safeconduct/safeconduct/gen/safeconduct/rpc/v1"
	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
	"github.com/safeconduct/safeconduct/runtime"
)

const (
	chunkBytes  = 60 << 10 // below the store's 64 KiB for one value
	maxEvidence = logs.MaxBytes
	mediaJSON   = "application/json"
	mediaText   = "text/plain"
)

// shared is the memory of the tenant, as one incident uses it.
type shared struct {
	store   string // SPIFFE ID
	tenant  string
	memory  rpcv1.MemoryServiceClient
	context rpcv1.ContextServiceClient
}

func openShared(a *runtime.Agent) (*shared, error) {
	store := "spiffe://" + a.ID().TrustDomain().Name() + "/service/memory"
	conn, err := a.Dial(store)
	if err != nil {
		return nil, err
	}
	return &shared{
		store: store, tenant: a.ID().Tenant().Name(),
		memory: rpcv1.NewMemoryServiceClient(conn), context: rpcv1.NewContextServiceClient(conn),
	}, nil
}

// namespace is where an incident's content lives.
func namespace(incident string, part string) []string {
	return []string{"shared", "incident", incident, part}
}

// put writes one entry and returns a reference to exactly this version.
func (s *shared) put(ctx context.Context, ns []string, key, media string, value []byte, raise *v1.Label, parents ...*v1.ContextRef) (*v1.ContextRef, error) {
	put := &rpcv1.Put{Ref: &v1.KeyRef{Key: []byte(key)}, Value: value, MediaType: media, Raise: raise}
	for _, p := range parents {
		put.DerivedFrom = append(put.DerivedFrom, p.GetCommitment())
	}
	resp, err := s.memory.Write(ctx, &rpcv1.WriteRequest{
		Ns: &v1.Path{Labels: ns}, Ops: []*rpcv1.Op{{Kind: &rpcv1.Op_Put{Put: put}}},
	})
	if err != nil {
		return nil, fmt.Errorf("writing %q: %w", key, err)
	}
	e := resp.GetEntries()[0]
	return &v1.ContextRef{
		Store: s.store, Tenant: s.tenant, Ref: e.GetRef(), Commitment: e.GetCommitment(), Size: uint64(len(value)),
		MediaType: media, Label: e.GetLabel(),
	}, nil
}

// get resolves a reference. The store checks that the content is what the reference committed to; its label joins the
// conversation before this returns.
func (s *shared) get(ctx context.Context, ref *v1.ContextRef) ([]byte, error) {
	resp, err := s.context.Resolve(ctx, &rpcv1.ResolveRequest{Ref: ref})
	if err != nil {
		return nil, fmt.Errorf("resolving %q: %w", ref.GetRef().GetKey(), err)
	}
	return resp.GetEntry().GetValue(), nil
}

// manifest lists the chunks of one piece of evidence.
type manifest struct {
	Source string  `json:"source"`
	Bytes  int64   `json:"bytes"`
	SHA256 []byte  `json:"sha256"`
	Chunks []chunk `json:"chunks"`
}

type chunk struct {
	Key        string `json:"key"`
	Version    uint64 `json:"version"`
	Commitment []byte `json:"commitment"`
	Size       uint64 `json:"size"`
}

// putEvidence stores a log in chunks, labelled untrusted: whoever talks to the server wrote it. It returns the reference of the
// manifest.
func (s *shared) putEvidence(ctx context.Context, incident, source string, r io.Reader) (*v1.ContextRef, error) {
	untrusted := &v1.Label{
		Integrity: v1.Integrity_INTEGRITY_UNTRUSTED, Confidentiality: v1.Confidentiality_CONFIDENTIALITY_INTERNAL,
		AnyReader: true, Sources: []string{"import:log"},
	}
	m := manifest{Source: source}
	sum := sha256.New()
	ns := namespace(incident, "evidence")
	buf := make([]byte, chunkBytes)
	in := io.LimitReader(r, maxEvidence)
	for {
		n, err := io.ReadFull(in, buf)
		if n > 0 {
			_, _ = sum.Write(buf[:n]) // a hash never fails
			m.Bytes += int64(n)
			key := fmt.Sprintf("chunk-%05d", len(m.Chunks))
			ref, perr := s.put(ctx, ns, key, mediaText, buf[:n], untrusted)
			if perr != nil {
				return nil, perr
			}
			m.Chunks = append(m.Chunks, chunk{key, ref.GetRef().GetVersion(), ref.GetCommitment(), ref.GetSize()})
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF { // io.ReadFull returns them as they are.
			break
		}
		if err != nil {
			return nil, fmt.Errorf("reading the log: %w", err)
		}
	}
	m.SHA256 = sum.Sum(nil)
	raw, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	return s.put(ctx, ns, "manifest", mediaJSON, raw, untrusted)
}

// getEvidence reads a log back, chunk by chunk, each by its pinned version and commitment.
func (s *shared) getEvidence(ctx context.Context, ref *v1.ContextRef) (*logs.Log, string, error) {
	raw, err := s.get(ctx, ref)
	if err != nil {
		return nil, "", err
	}
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return nil, "", fmt.Errorf("manifest: %w", err)
	}
	var all bytes.Buffer
	for _, c := range m.Chunks {
		part, err := s.get(ctx, &v1.ContextRef{
			Store: ref.GetStore(), Tenant: ref.GetTenant(), Commitment: c.Commitment, Size: c.Size, MediaType: mediaText,
			Ref: &v1.KeyRef{Ns: ref.GetRef().GetNs(), Key: []byte(c.Key), Version: c.Version},
		})
		if err != nil {
			return nil, "", err
		}
		if all.Len()+len(part) > maxEvidence {
			return nil, "", fmt.Errorf("evidence over %d bytes", maxEvidence)
		}
		all.Write(part)
	}
	if sum := sha256.Sum256(all.Bytes()); !bytes.Equal(sum[:], m.SHA256) {
		return nil, "", fmt.Errorf("the chunks are not the log that the manifest describes")
	}
	l, err := logs.Read(&all, logs.Limits{})
	return l, m.Source, err
}
