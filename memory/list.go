package memory

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"time"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// ListOptions say what a list covers. The zero value is the view's namespace without its children.
type ListOptions struct {
	// Subtree includes every namespace below, which the permit must cover.
	Subtree   bool
	KeyPrefix []byte
	// PageSize is 1 to MaxPage; 0 is DefaultPage.
	PageSize int
	// PageToken is that of the page before, for the same caller and the same list; empty starts.
	PageToken string
	// MinIntegrity leaves out entries below it; unspecified leaves out none.
	MinIntegrity v1.Integrity
}

// Page is one part of a list. It may be empty while NextPageToken is not, when all that it covers was left out.
type Page struct {
	// Headers are entries without values, in the order of their encoded names.
	Headers []Entry
	// NextPageToken is empty on the last page. It is valid for ten minutes.
	NextPageToken string
	// Rev is the revision of the one snapshot that the page is of.
	Rev Rev
}

// List returns one page of headers. The permit's action is memory.list. ErrNotFound for a subtree that the permit does not cover;
// ErrInvalid for a page token of another agent, tenant, list or store, or an expired or altered one.
func (v *View) List(ctx context.Context, o ListOptions) (Page, error) {
	if err := v.check(ActionList); err != nil {
		return Page{}, err
	}
	if o.PageSize == 0 {
		o.PageSize = DefaultPage
	}
	switch {
	case o.PageSize < 0:
		return Page{}, invalid("negative page size")
	case o.MinIntegrity < 0 || o.MinIntegrity > v1.Integrity_INTEGRITY_SYSTEM:
		return Page{}, invalid(fmt.Sprintf("unknown integrity %d", o.MinIntegrity))
	case len(o.KeyPrefix) > MaxKeyBytes:
		return Page{}, tooLarge("key prefix")
	}
	o.PageSize = min(o.PageSize, v.store.cfg.Limits.Page)
	if o.Subtree {
		if err := v.coversBelow(v.ns); err != nil {
			return Page{}, err
		}
	}
	r := Range{T: Cur, Limit: o.PageSize}
	switch {
	case o.Subtree:
		r.Lo, r.Hi = subtreeRange(v.ns.labels)
	case len(o.KeyPrefix) > 0:
		r.Lo, r.Hi = prefixRange(v.ns.labels, o.KeyPrefix)
	default:
		r.Lo, r.Hi = exactRange(v.ns.labels)
	}
	if o.PageToken != "" {
		last, err := v.openToken(o)
		if err != nil {
			return Page{}, err
		}
		r.Lo = append(last, 0) // the first name after the last one
	}
	var page Page
	err := v.record(ctx, nil, func() (Outcome, error) {
		var err error
		page, err = v.page(ctx, o, r)
		out := Outcome{Rev: page.Rev}
		for _, e := range page.Headers {
			out.Touched = append(out.Touched, e.touched(e.Ref.Version, e.Ref.Version))
		}
		return out, err
	})
	if err != nil {
		return Page{}, err
	}
	return page, nil
}

func (v *View) page(ctx context.Context, o ListOptions, r Range) (Page, error) {
	items, rev, err := v.store.cfg.Driver.Scan(ctx, v.tenant, r)
	if err != nil {
		return Page{}, wrap(err)
	}
	page := Page{Rev: rev}
	more := len(items) == r.Limit
	size := 0
	var last []byte
	for _, it := range items {
		if size += len(it.V); size > maxPageBytes && last != nil {
			more = true
			break
		}
		if it.T != Cur || bytes.Compare(it.K, r.Lo) < 0 || (r.Hi != nil && bytes.Compare(it.K, r.Hi) >= 0) {
			return Page{}, damaged(v1.Reason_REASON_MEMORY_TENANT_CROSSED, "the driver answered outside the asked range")
		}
		last = it.K
		e, ok, err := v.listed(o, it)
		if err != nil {
			return Page{}, err
		}
		if ok {
			page.Headers = append(page.Headers, e)
		}
	}
	if more {
		if page.NextPageToken, err = v.sealToken(o, last); err != nil {
			return Page{}, err
		}
	}
	return page, nil
}

// listed decodes one head and decides whether the caller may see it.
func (v *View) listed(o ListOptions, it Item) (Entry, bool, error) {
	r, err := v.decodeRecord(it.Key, it)
	if err != nil || r.state != v1.State_STATE_LIVE {
		return Entry{}, false, err
	}
	labels, key, err := decodeCurKey(it.K)
	if err != nil {
		return Entry{}, false, damaged(v1.Reason_REASON_MEMORY_COMMITMENT, "a stored name does not decode")
	}
	if !bytes.HasPrefix(key, o.KeyPrefix) {
		return Entry{}, false, nil
	}
	ns := v.ns
	if len(labels) != len(ns.labels) {
		ns = Namespace{labels: labels}
	}
	if v.covers(ns) != nil {
		return Entry{}, false, nil
	}
	e, err := r.entry(Ref{Namespace: ns, Key: key})
	if err != nil {
		return Entry{}, false, err
	}
	return e, e.Label.Integrity >= o.MinIntegrity && readableBy(e.Label, v.permit.Peer().Agent), nil
}

// A page token is sealed, because the name it continues after may be one that the caller was not shown.

func (v *View) tokenContext(o ListOptions) []byte {
	h := sha256.New()
	flag := byte(0)
	if o.Subtree {
		flag = 1
	}
	h.Write([]byte{flag, byte(o.MinIntegrity)}) //nolint:gosec // G115: checked to be 0 to 4
	h.Write(appendField(nil, appendNS(nil, v.ns.labels)))
	h.Write(o.KeyPrefix)
	b := append([]byte("safeconduct/page/v1\x00"), v.id[:]...)
	b = appendField(b, v.permit.Peer().Agent.String())
	return h.Sum(b)
}

func (v *View) sealToken(o ListOptions, last []byte) (string, error) {
	plain := binary.BigEndian.AppendUint64(nil, uint64(v.store.cfg.Now().Add(tokenLife).UnixNano()))
	plain = append(plain, last...)
	sealed := v.store.tokens.Seal(nil, nil, plain, v.tokenContext(o)) //nolint:gosec // G407: this AEAD draws its own nonce
	token := base64.RawURLEncoding.EncodeToString(sealed)
	if len(token) > maxTokenChars {
		return "", damaged(v1.Reason_REASON_INTERNAL, "a page token is too long")
	}
	return token, nil
}

func (v *View) openToken(o ListOptions) (last []byte, err error) {
	if len(o.PageToken) > maxTokenChars {
		return nil, invalid("page token is too long")
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(o.PageToken)
	if err != nil {
		return nil, invalid("page token is not base64")
	}
	plain, err := v.store.tokens.Open(nil, nil, sealed, v.tokenContext(o))
	if err != nil || len(plain) < 8 {
		return nil, invalid("page token is of another caller, list or store, or altered")
	}
	expires := time.Unix(0, int64(binary.BigEndian.Uint64(plain))) //nolint:gosec // G115: sealed by this store from an int64
	if !v.store.cfg.Now().Before(expires) {
		return nil, invalid("page token has expired")
	}
	return plain[8:], nil
}
