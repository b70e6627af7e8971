package vectors

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
)

// filePerm and dirPerm are those of source files.
const (
	filePerm = 0o644
	dirPerm  = 0o755
)

// All generates every file of vectors, always the same.
func All() ([]*File, error) {
	w := newWorld()
	files := []*File{
		structure(w), bombs(w), narrowing(w), lifetimes(w), signatures(w), certificates(w), encodings(w), tenants(w), replays(w), references(w),
		proofs(w), orders(w),
	}
	if w.err != nil {
		return nil, fmt.Errorf("generating vectors: %w", w.err)
	}
	return files, nil
}

// Encode returns the contents of each file by name.
func Encode() (map[string][]byte, error) {
	files, err := All()
	if err != nil {
		return nil, err
	}
	out := map[string][]byte{}
	for _, f := range files {
		if out[f.Group+".json"], err = encode(f); err != nil {
			return nil, err
		}
	}
	if out["notrun.json"], err = encode(Absences()); err != nil {
		return nil, err
	}
	return out, nil
}

func encode(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", " ")
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encoding vectors: %w", err)
	}
	return buf.Bytes(), nil
}

// Write generates every file into dir, which it creates.
func Write(dir string) error {
	files, err := Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, dirPerm); err != nil {
		return fmt.Errorf("writing vectors: %w", err)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), text, filePerm); err != nil {
			return fmt.Errorf("writing vectors: %w", err)
		}
	}
	return nil
}
