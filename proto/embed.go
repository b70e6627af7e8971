// Package proto holds the proto files of Safeconduct as data, for programs that write them out beside their own proto files
// and generate stubs. It stores nothing else, imports nothing of ours, and knows no generator.
//
// Import paths of the files start below [Files]: "safeconduct/v1/intent.proto" declares the method option
// (safeconduct.v1.intent), extension 51807, and the field option (safeconduct.v1.field), extension 51808.
package proto

import "embed"

// Files holds every proto file under its import path, such as safeconduct/v1/envelope.proto. It is read-only and safe for
// concurrent use; os.CopyFS writes it to a directory that can then be a root of a proto compiler.
//
//go:embed safeconduct
var Files embed.FS
