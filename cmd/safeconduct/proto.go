package main

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/proto"
)

func newProto() *cobra.Command {
	return group("proto", "Work with the proto files of Safeconduct",
		"The proto files are part of this binary, so that stubs match the version that runs.",
		"  safeconduct proto export third_party/proto", newProtoExport())
}

func newProtoExport() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "export DIR", Short: "Write the proto files below a folder",
		Long: "Writes every proto file under its import path, so that DIR can be a root of a proto compiler. A file that is there with other content is left alone.",
		Example: `  safeconduct proto export third_party/proto
  protoc -I third_party/proto -I . --go_out=. agent.proto`,
		Args: exactly(1, "the folder to write to"),
		RunE: func(cmd *cobra.Command, args []string) error {
			n, err := exportProto(args[0], force)
			if err != nil {
				return err
			}
			return say(cmd, "%d files below %s", n, args[0])
		},
	}
	cmd.Flags().BoolVar(&force, "force", false, "overwrite files with other content")
	return cmd
}

// exportProto writes all files or, when one of them would be overwritten without force, none.
func exportProto(dir string, force bool) (int, error) {
	files := map[string][]byte{}
	var differ []string
	err := fs.WalkDir(proto.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		raw, err := proto.Files.ReadFile(path)
		if err != nil {
			return err
		}
		target := filepath.Join(dir, filepath.FromSlash(path))
		files[target] = raw
		old, err := os.ReadFile(target)
		if err == nil && !bytes.Equal(old, raw) {
			differ = append(differ, target)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("exporting proto files: %w", err)
	}
	if len(differ) > 0 && !force {
		return 0, fmt.Errorf("other content is in %s; nothing was written, overwrite with --force", strings.Join(differ, ", "))
	}
	for target, raw := range files {
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil { //nolint:gosec // G301: public files, as a checkout has them
			return 0, fmt.Errorf("exporting proto files: %w", err)
		}
		if err := os.WriteFile(target, raw, 0o644); err != nil { //nolint:gosec // G306: as above
			return 0, fmt.Errorf("exporting proto files: %w", err)
		}
	}
	return len(files), nil
}
