package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// isTerminal reports whether what is written to w, or read from it, is a person's terminal.
func isTerminal(w any) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Colours of a verdict.
const (
	red    = "31"
	green  = "32"
	yellow = "33"
)

// paint colours s on a terminal, unless NO_COLOR is set (https://no-color.org) or the terminal is dumb.
func paint(w io.Writer, color, s string) string {
	if os.Getenv("NO_COLOR") != "" || os.Getenv("TERM") == "dumb" || !isTerminal(w) {
		return s
	}
	return "\x1b[" + color + "m" + s + "\x1b[0m"
}

// writeJSON writes v indented. Everything outside ASCII is escaped, so that no text in it can act on a terminal.
func writeJSON(cmd *cobra.Command, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	return say(cmd, "%s", asciiJSON(raw))
}

// asciiJSON escapes what is not printable ASCII; outside of strings JSON has nothing else.
func asciiJSON(raw []byte) string {
	var b strings.Builder
	for _, r := range string(raw) {
		switch {
		case r == '\n' || r >= ' ' && r <= '~':
			b.WriteRune(r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\u%04x\u%04x`, (r-0x10000)>>10+0xd800, (r-0x10000)&0x3ff+0xdc00)
		}
	}
	return b.String()
}

// protoJSON is a message as JSON for writeJSON, with the field names of the proto files.
func protoJSON(m proto.Message) (json.RawMessage, error) {
	raw, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	var b bytes.Buffer
	if err := json.Compact(&b, raw); err != nil {
		return nil, fmt.Errorf("encoding the answer: %w", err)
	}
	return b.Bytes(), nil
}

// protoList is a list of messages as JSON, "[]" when there are none.
func protoList[T proto.Message](list []T) ([]json.RawMessage, error) {
	out := make([]json.RawMessage, 0, len(list))
	for _, m := range list {
		raw, err := protoJSON(m)
		if err != nil {
			return nil, err
		}
		out = append(out, raw)
	}
	return out, nil
}

// columns writes rows under a head; cells must be free of tabs and line ends.
func columns(w io.Writer, head []string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	for _, row := range append([][]string{head}, rows...) {
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return fmt.Errorf("writing the answer: %w", err)
		}
	}
	return t.Flush()
}

// quote is s for a line that a person copies into a shell.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%,=", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// errTooLarge is returned for input over its bound.
var errTooLarge = errors.New("too large")

// readBounded reads a file of at most most bytes; longer ones wrap errTooLarge.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // G703: the operator names the file
	if err != nil {
		return nil, fmt.Errorf("reading: %w", err)
	}
	defer f.Close() //nolint:errcheck // read only
	return readAll(f, path, most)
}

func readAll(r io.Reader, name string, most int64) ([]byte, error) {
	raw, err := io.ReadAll(io.LimitReader(r, most+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(raw)) > most {
		return nil, fmt.Errorf("%s is %w: over %d bytes", name, errTooLarge, most)
	}
	return raw, nil
}

// sayProto writes a message as JSON.
func sayProto(cmd *cobra.Command, m proto.Message) error {
	raw, err := protoJSON(m)
	if err != nil {
		return err
	}
	return writeJSON(cmd, raw)
}

// sayProtos writes a list of messages as JSON.
func sayProtos[T proto.Message](cmd *cobra.Command, list []T) error {
	raw, err := protoList(list)
	if err != nil {
		return err
	}
	return writeJSON(cmd, raw)
}
