package testcontainers

import (
	"errors"
	"strings"
)

var errNoVersion = errors.New("no version number in the server's answer")

// parseVersion finds the version in what a server binary prints for
// --version, such as "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)":
// the first word that starts with a digit. Major is its leading number; a
// development build ("19devel") has one too.
func parseVersion(s string) (full, major string, err error) {
	for word := range strings.FieldsSeq(s) {
		end := strings.IndexFunc(word, func(r rune) bool { return r < '0' || r > '9' })
		switch {
		case end == 0:
			continue
		case end < 0:
			end = len(word)
		}
		return word, word[:end], nil
	}
	return "", "", errNoVersion
}
