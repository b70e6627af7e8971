package main

import (
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/dynamicpb"

	_ "github.com/safeconduct/safeconduct/examples/hello/gen/hello/v1" // its methods, for a first attack without a descriptor set
)

// maxDescriptors bounds a descriptor set; with all of googleapis it has about 10 MiB.
const maxDescriptors = 32 << 20

// finder finds descriptors by name.
type finder interface {
	FindDescriptorByName(protoreflect.FullName) (protoreflect.Descriptor, error)
}

// callOf finds a method and reads its request. file is a descriptor set; empty takes what is linked into this program.
func callOf(method, request, file string) (protoreflect.MethodDescriptor, proto.Message, error) {
	files, where := finder(protoregistry.GlobalFiles), "that this program knows; name its descriptors with --descriptor-set"
	if file != "" {
		var err error
		if files, err = readDescriptors(file); err != nil {
			return nil, nil, err
		}
		where = "in " + file
	}
	service, name, ok := strings.Cut(strings.TrimPrefix(method, "/"), "/")
	if !ok || !protoreflect.FullName(service).IsValid() {
		return nil, nil, usagef("--method %s: want /pkg.Service/Method", quote(method))
	}
	d, err := files.FindDescriptorByName(protoreflect.FullName(service))
	sd, isService := d.(protoreflect.ServiceDescriptor)
	if err != nil || !isService {
		return nil, nil, usagef("--method %s: no such service %s", quote(method), where)
	}
	md := sd.Methods().ByName(protoreflect.Name(name))
	if md == nil {
		return nil, nil, usagef("--method: %s has no method %s", service, quote(name))
	}
	req := dynamicpb.NewMessage(md.Input())
	if err := protojson.Unmarshal([]byte(request), req); err != nil {
		return nil, nil, usagef("--request is no %s: %w", md.Input().FullName(), err)
	}
	return md, req, nil
}

// readDescriptors reads a FileDescriptorSet. The option that says what a method means is linked in, so it is understood.
func readDescriptors(file string) (*protoregistry.Files, error) {
	raw, err := readBounded(file, maxDescriptors)
	if err != nil {
		return nil, usagef("%w", err)
	}
	var set descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &set); err != nil || len(set.GetFile()) == 0 {
		return nil, usagef("%s is no descriptor set; make one with: buf build -o FILE.binpb", file)
	}
	files, err := protodesc.NewFiles(&set)
	if err != nil {
		return nil, usagef("%s: %w; make it with all imports in it: buf build -o FILE.binpb, or protoc --include_imports", file, err)
	}
	return files, nil
}
