// Package wirecodec is the codec that our own gRPC servers and clients use: generated code for the Envelope, grpc-go's own codec for
// everything else.
package wirecodec
