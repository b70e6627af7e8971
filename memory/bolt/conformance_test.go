package bolt_test

import (
	"path/filepath"
	"testing"

	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/bolt"
	"github.com/safeconduct/safeconduct/memory/memorytest"
)

func TestBoltConforms(t *testing.T) {
	memorytest.Run(t, memorytest.Harness{Durable: true, Open: func(dir string) (memory.Driver, error) {
		return bolt.Open(filepath.Join(dir, "memory.db"), bolt.Options{})
	}})
}
