//go:build !linux

package file_test

import (
	"errors"
	"testing"
)

// mountTiny cannot mount anything here.
func mountTiny(*testing.T, string) error { return errors.ErrUnsupported }
