//go:build !linux

package stream

import (
	"errors"
	"os"
)

func syncTree(*os.File) error { return errors.ErrUnsupported }
