package memorytest_test

import (
	"testing"

	"github.com/safeconduct/safeconduct/memory"
	"github.com/safeconduct/safeconduct/memory/memorytest"
)

func TestModelConforms(t *testing.T) {
	memorytest.Run(t, memorytest.Harness{Open: func(string) (memory.Driver, error) { return memorytest.NewModel(), nil }})
}
