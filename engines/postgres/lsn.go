package postgres

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// FormatLSN prints a position the way PostgreSQL does: "0/3000028".
func FormatLSN(p repo.Position) string {
	return fmt.Sprintf("%X/%X", uint32(p>>32), uint32(p))
}

// ParseLSN reads "0/3000028": two hexadecimal numbers of at most 32 bits.
func ParseLSN(s string) (repo.Position, error) {
	hi, lo, ok := strings.Cut(s, "/")
	if !ok {
		return 0, fmt.Errorf("%q is not a log position like 0/3000028", s)
	}
	h, err := parseHex32(hi)
	if err != nil {
		return 0, fmt.Errorf("%q is not a log position like 0/3000028", s)
	}
	l, err := parseHex32(lo)
	if err != nil {
		return 0, fmt.Errorf("%q is not a log position like 0/3000028", s)
	}
	return repo.Position(h<<32 | l), nil
}

// parseHex32 is strict: no sign, no underscore, no prefix.
func parseHex32(s string) (uint64, error) {
	if s == "" || len(s) > 8 || strings.Trim(s, "0123456789abcdefABCDEF") != "" {
		return 0, strconv.ErrSyntax
	}
	return strconv.ParseUint(s, 16, 32)
}

// segmentStart rounds down to the start of the WAL segment that holds p.
func segmentStart(p repo.Position, segmentSize int64) repo.Position {
	return p - p%repo.Position(segmentSize)
}
