package main

import (
	"runtime/debug"

	"github.com/spf13/cobra"
)

// buildInfo is what the Go linker wrote into this binary.
type buildInfo struct {
	Module   string `json:"module"`
	Version  string `json:"version"`
	Revision string `json:"revision,omitempty"`
	Time     string `json:"time,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	Go       string `json:"go"`
}

func build() buildInfo {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return buildInfo{Version: "unknown"}
	}
	out := buildInfo{Module: info.Main.Path, Version: info.Main.Version, Go: info.GoVersion}
	if out.Version == "" {
		out.Version = "(devel)"
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			out.Revision = s.Value
		case "vcs.time":
			out.Time = s.Value
		case "vcs.modified":
			out.Modified = s.Value == "true"
		}
	}
	return out
}

func newVersion() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use: "version", Short: "Print the version of this binary",
		Example: "  safeconduct version\n  safeconduct version --json",
		Args:    exactly(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			b := build()
			if asJSON {
				return writeJSON(cmd, b)
			}
			line := "safeconduct " + b.Version
			if b.Revision != "" {
				line += " (" + b.Revision
				if b.Modified {
					line += ", modified"
				}
				line += ")"
			}
			return say(cmd, "%s %s", line, b.Go)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print as JSON")
	return cmd
}
