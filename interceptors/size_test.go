package interceptors_test

import (
	"encoding/binary"
	"testing"

	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"

	"github.com/safeconduct/safeconduct/audit"
)

// What a call writes is paid for by every call: encoding, hashing, disk.
func TestRecordsAreSmall(t *testing.T) {
	x := newBench(t)
	for n := range uint64(3) {
		binary.BigEndian.PutUint64(x.env.Id, n+1)
		x.deliver(t)
	}
	o, err := x.end.OpenOutgoing(t.Context(), x.end.Self(), x.env, nil, x.end.Methods().Lookup(foreign))
	if err == nil {
		err = o.Close(nil, o.Position().Proto(), 1<<10)
	}
	if err == nil {
		err = x.log.Sync(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	var sizes []int
	for rec, err := range audit.ReadDir(x.dir) {
		if err != nil {
			t.Fatal(err)
		}
		if rec.Seq > 0 { // BOOT
			sizes = append(sizes, len(rec.Raw))
		}
		if testing.Verbose() {
			t.Logf("%d: %d bytes, %d of them presented\n%s", rec.Seq, len(rec.Raw), proto.Size(rec.Event.GetPresented()), prototext.Format(rec.Event))
		}
	}
	for i, most := range []int{6 << 10, 160, 480, 160, 480, 160, 360, 240} {
		if i >= len(sizes) || sizes[i] > most {
			t.Errorf("records of %d bytes, want number %d to have at most %d", sizes, i, most)
		}
	}
}
