package bolt

import (
	"bytes"
	"context"

	bbolt "go.etcd.io/bbolt"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/memory"
)

// Scan implements memory.Driver.
func (d *Driver) Scan(ctx context.Context, t identity.Tenant, r memory.Range) ([]memory.Item, memory.Rev, error) {
	if err := r.Check(); err != nil {
		return nil, 0, err
	}
	var out []memory.Item
	rev, err := d.view(ctx, t, func(b *bbolt.Bucket, _ head) error {
		tb, err := tableBucket(b, r.T)
		if err != nil {
			return err
		}
		c := tb.Cursor()
		k, v := first(c, r)
		for ; k != nil && len(out) < r.Limit && inside(k, r); k, v = next(c, r) {
			it, err := copyItem(memory.Key{T: r.T, K: bytes.Clone(k)}, v)
			if err != nil {
				return err
			}
			out = append(out, it)
		}
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	return out, rev, nil
}

func first(c *bbolt.Cursor, r memory.Range) (k, v []byte) {
	switch {
	case !r.Desc && len(r.Lo) == 0:
		return c.First()
	case !r.Desc:
		return c.Seek(r.Lo)
	case len(r.Hi) == 0:
		return c.Last()
	}
	// The largest key below Hi. Seek returns nothing when all keys are smaller.
	if k, _ := c.Seek(r.Hi); k == nil {
		return c.Last()
	}
	return c.Prev()
}

func next(c *bbolt.Cursor, r memory.Range) (k, v []byte) {
	if r.Desc {
		return c.Prev()
	}
	return c.Next()
}

func inside(k []byte, r memory.Range) bool {
	return bytes.Compare(k, r.Lo) >= 0 && (len(r.Hi) == 0 || bytes.Compare(k, r.Hi) < 0)
}
