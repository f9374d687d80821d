package config

import (
	"fmt"
	"time"

	"github.com/dustin/go-humanize"
)

// Duration is a time.Duration written "10s", "15m" or "14d".
type Duration time.Duration

// UnmarshalText parses a duration; a day is 24 hours.
func (d *Duration) UnmarshalText(b []byte) error {
	s := string(b)
	if n := len(s); n > 1 && s[n-1] == 'd' {
		var days float64
		if _, err := fmt.Sscanf(s[:n-1], "%g", &days); err != nil || days < 0 {
			return fmt.Errorf("duration %q: want something like 10s, 15m or 14d", s)
		}
		*d = Duration(days * 24 * float64(time.Hour))
		return nil
	}
	v, err := time.ParseDuration(s)
	if err != nil || v < 0 {
		return fmt.Errorf("duration %q: want something like 10s, 15m or 14d", s)
	}
	*d = Duration(v)
	return nil
}

// Or returns the duration, or def where none was given.
func (d Duration) Or(def time.Duration) time.Duration {
	if d == 0 {
		return def
	}
	return time.Duration(d)
}

// Size is a number of bytes written "128MiB" (powers of two) or "128MB".
type Size int64

// UnmarshalText parses a size.
func (z *Size) UnmarshalText(b []byte) error {
	v, err := humanize.ParseBytes(string(b))
	if err != nil || v > 1<<62 {
		return fmt.Errorf("size %q: want something like 64MiB", b)
	}
	*z = Size(v)
	return nil
}

// Set, String and Type make Size a command-line flag.
func (z *Size) Set(s string) error { return z.UnmarshalText([]byte(s)) }
func (z *Size) String() string     { return humanize.IBytes(uint64(max(*z, 0))) }
func (z *Size) Type() string       { return "size" }
