//go:build !unix

package hammer

import "errors"

func processorTime() (int64, error) { return 0, errors.ErrUnsupported }
