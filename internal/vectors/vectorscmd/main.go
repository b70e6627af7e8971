// Command vectorscmd writes the conformance vectors into a folder.
package main

import (
	"flag"
	"fmt"
	"os"

	"github.com/safeconduct/safeconduct/internal/vectors"
)

func main() {
	out := flag.String("out", "conformance/vectors", "folder to write to")
	flag.Parse()
	if err := vectors.Write(*out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
