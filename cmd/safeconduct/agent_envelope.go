package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/dynamicpb"

	"github.com/safeconduct/safeconduct/identity"
	"github.com/safeconduct/safeconduct/runtime"
)

func newAgentEnvelope() *cobra.Command {
	var who actor
	var peer, method, data string
	var beside bool
	cmd := &cobra.Command{
		Use: "envelope", Short: "Print a signed envelope as JSON, for curl and grpcurl",
		Long: `Becomes an agent, extends its grant by a hop to the callee, and prints the request that its runtime would send: the Envelope for
ExchangeService/Deliver, or with --beside the typed request with the envelope in its field. It is good for one delivery within
30 seconds, over mTLS as the same agent: send it from "agent exec-tls".`,
		Example: `  safeconduct agent envelope --as acme/planner --grant report.grant --purpose report \
    --method /safeconduct.rpc.v1.MemoryService/List --data '{"ns":{"labels":["notes"]}}'`,
		Args: exactly(0, ""),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := need(cmd, "as", "grant", "purpose", "method"); err != nil {
				return err
			}
			req, err := requestOf(method, data)
			if err != nil {
				return err
			}
			grant, err := readGrant(who.grant)
			if err != nil {
				return err
			}
			return actAs(cmd, args, who.as, func(id identity.AgentID) error {
				return grant.check(id, who.purpose, time.Now())
			}, func(s *session, id identity.AgentID) error {
				ctx, cancel := context.WithTimeout(cmd.Context(), memoryTimeout)
				defer cancel()
				if peer == "" {
					peer = s.memoryID()
				}
				return s.withConn(ctx, id, grant.statement, who.purpose, peer, func(ctx context.Context, conn *runtime.Conn) error {
					return sayEnvelope(ctx, cmd, conn, method, req, beside)
				})
			})
		},
	}
	f := cmd.Flags()
	who.flags(cmd)
	f.StringVar(&peer, "to", "", "SPIFFE ID of the callee (default: the shared memory)")
	f.StringVar(&method, "method", "", "full method, /pkg.Service/Method")
	f.StringVar(&data, "data", "{}", "the request as JSON")
	f.BoolVar(&beside, "beside", false, "print the typed request with the envelope in its field, for a guarded gRPC call")
	return cmd
}

// requestOf reads the request of a method that this binary knows.
func requestOf(method, data string) (*dynamicpb.Message, error) {
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(service))
	sd, isService := d.(protoreflect.ServiceDescriptor)
	if !ok || err != nil || !isService {
		return nil, usagef("--method %s: want /pkg.Service/Method of a service that this binary knows", quote(method))
	}
	md := sd.Methods().ByName(protoreflect.Name(name))
	if md == nil {
		return nil, usagef("--method: %s has no method %s", service, quote(name))
	}
	req := dynamicpb.NewMessage(md.Input())
	if err := protojson.Unmarshal([]byte(data), req); err != nil {
		return nil, usagef("--data is no %s: %w", md.Input().FullName(), err)
	}
	return req, nil
}

func sayEnvelope(ctx context.Context, cmd *cobra.Command, conn *runtime.Conn, method string, req *dynamicpb.Message, beside bool) error {
	env, err := conn.Prepare(ctx, method, req)
	if err != nil {
		return err
	}
	var out proto.Message = env
	if beside {
		field := req.Descriptor().Fields().ByName("envelope")
		if field == nil {
			return usagef("--beside: %s has no field envelope", req.Descriptor().FullName())
		}
		env.Kind, env.HalfClose, env.Payload, env.PayloadType, env.Intent.ArgumentsDigest = 0, false, nil, "", nil
		inner := dynamicpb.NewMessage(field.Message())
		raw, err := proto.Marshal(env)
		if err == nil {
			err = proto.Unmarshal(raw, inner)
		}
		if err != nil {
			return fmt.Errorf("envelope: %w", err)
		}
		req.Set(field, protoreflect.ValueOfMessage(inner))
		out = req
	}
	raw, err := protojson.Marshal(out)
	if err != nil {
		return fmt.Errorf("envelope: %w", err)
	}
	return say(cmd, "%s", raw)
}
