package runtime

import (
	"context"

	"google.golang.org/protobuf/proto"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// Prepare returns the Envelope that Invoke would send with req, without sending it: for tools that speak the wire themselves. It is
// good for one delivery, over mTLS as this agent, within 30 seconds.
func (c *Conn) Prepare(ctx context.Context, method string, req proto.Message) (*v1.Envelope, error) {
	m, err := c.lookup(method)
	if err != nil {
		return nil, err
	}
	msg := newMessage()
	if err := c.carry(ctx, m, req, &options{}, msg); err != nil {
		return nil, err
	}
	return msg.env, nil
}
