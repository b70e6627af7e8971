package interceptors

import (
	"errors"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"

	v1 "github.com/safeconduct/safeconduct/gen/safeconduct/v1"
)

// A field that declares a rule keeps its method from being served, also below the top: nothing holds the rule yet.
func TestFieldRulesAreRefusedNotIgnored(t *testing.T) {
	options := &descriptorpb.FieldOptions{}
	proto.SetExtension(options, v1.E_Field, &v1.FieldRule{MinIntegrity: v1.Integrity_INTEGRITY_TRUSTED})
	for _, ruled := range []bool{false, true} {
		leaf := &descriptorpb.FieldDescriptorProto{
			Name: proto.String("text"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_STRING.Enum(),
			Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
		}
		if ruled {
			leaf.Options = options
		}
		fd, err := protodesc.NewFile(&descriptorpb.FileDescriptorProto{
			Name: proto.String("ruled.proto"), Package: proto.String("ruled.v1"), Syntax: proto.String("proto3"),
			MessageType: []*descriptorpb.DescriptorProto{
				{Name: proto.String("Outer"), Field: []*descriptorpb.FieldDescriptorProto{{
					Name: proto.String("inner"), Number: proto.Int32(1), Type: descriptorpb.FieldDescriptorProto_TYPE_MESSAGE.Enum(),
					TypeName: proto.String(".ruled.v1.Inner"), Label: descriptorpb.FieldDescriptorProto_LABEL_OPTIONAL.Enum(),
				}}},
				{Name: proto.String("Inner"), Field: []*descriptorpb.FieldDescriptorProto{leaf}},
			},
		}, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = new(Methods).Add(&Method{
			Procedure: "/ruled.v1.Service/Do", Intent: &v1.MethodIntent{Action: "ruled.do"}, Input: fd.Messages().ByName("Outer"),
		})
		if ruled != errors.Is(err, ErrMethod) || ruled && !strings.Contains(err.Error(), "ruled.v1.Inner.text") {
			t.Errorf("a rule declared: %v; Add() = %v", ruled, err)
		}
	}
}
