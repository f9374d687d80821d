package postgres

import (
	"errors"
	"strconv"
	"strings"
)

// This file reads and writes the syntax of postgresql.conf (guc-file.l): one
// "name = value" a line, the "=" optional, names in any case, values bare or
// in single quotes with doubled quotes and backslash escapes, "#" comments.

// confSetting is one setting as a line of a file gives it.
type confSetting struct {
	Name  string // lower case
	Value string
}

// isInclude: the line names another file instead of a setting.
func (s confSetting) isInclude() bool { return strings.HasPrefix(s.Name, "include") }

// parseConfLine reads one line; ok is false for comments, empty lines and
// what the server would reject too.
func parseConfLine(line string) (s confSetting, ok bool) {
	line = strings.TrimLeft(line, " \t\r")
	n := 0
	for n < len(line) && isConfNameByte(line[n], n) {
		n++
	}
	if n == 0 {
		return s, false
	}
	s.Name = strings.ToLower(line[:n])
	rest := strings.TrimLeft(line[n:], " \t")
	rest = strings.TrimLeft(strings.TrimPrefix(rest, "="), " \t")
	if strings.HasPrefix(rest, "'") {
		s.Value, ok = parseConfQuoted(rest[1:])
		return s, ok
	}
	if i := strings.IndexAny(rest, " \t\r#"); i >= 0 {
		rest = rest[:i]
	}
	s.Value = rest
	return s, rest != ""
}

func isConfNameByte(c byte, at int) bool {
	letter := c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
	return letter || at > 0 && (c >= '0' && c <= '9' || c == '.' || c == '$')
}

// parseConfQuoted reads up to the closing quote.
func parseConfQuoted(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\'' && i+1 < len(s) && s[i+1] == '\'':
			b.WriteByte('\'')
			i++
		case c == '\'':
			return b.String(), true
		case c == '\\' && i+1 < len(s):
			n := confEscape(&b, s[i+1:])
			i += n
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// confEscape writes what follows a backslash and returns how many bytes of
// it there were (GUC_scanstr: b f n r t, up to three octal digits, else the
// byte itself).
func confEscape(b *strings.Builder, s string) int {
	const letters, bytes = "bfnrt", "\b\f\n\r\t"
	if i := strings.IndexByte(letters, s[0]); i >= 0 {
		b.WriteByte(bytes[i])
		return 1
	}
	n, v := 0, 0
	for n < 3 && n < len(s) && s[n] >= '0' && s[n] <= '7' {
		v = v<<3 | int(s[n]-'0')
		n++
	}
	if n > 0 {
		b.WriteByte(byte(v))
		return n
	}
	b.WriteByte(s[0])
	return 1
}

// confQuote is a value as a file can hold it.
func confQuote(v string) string {
	return "'" + strings.NewReplacer("\\", "\\\\", "'", "''", "\n", "\\n", "\r", "\\r").Replace(v) + "'"
}

// confLine is one line that sets a setting.
func confLine(name, value string) string { return name + " = " + confQuote(value) + "\n" }

// confSettings reads a whole file; later lines win. included says that it
// refers to further files, which are not read.
func confSettings(text string) (settings map[string]string, included bool) {
	settings = map[string]string{}
	for line := range strings.SplitSeq(text, "\n") {
		s, ok := parseConfLine(line)
		switch {
		case !ok:
		case s.isInclude():
			included = true
		default:
			settings[s.Name] = s.Value
		}
	}
	return settings, included
}

// errCommand: an argument that no command line can hold.
var errCommand = errors.New("an argument of a command holds a NUL byte")

// shellCommand is an argument vector as the value of restore_command and its
// kin: a line for sh in which the server replaces %f, %p and %r, so that a
// percent sign is doubled. tail is added as it is.
func shellCommand(argv []string, tail string) (string, error) {
	words := make([]string, 0, len(argv)+1)
	for _, a := range argv {
		if strings.IndexByte(a, 0) >= 0 {
			return "", errCommand
		}
		words = append(words, strings.ReplaceAll(shellWord(a), "%", "%%"))
	}
	if tail != "" {
		words = append(words, tail)
	}
	return strings.Join(words, " "), nil
}

// shellWord quotes a word for sh unless it is plainly harmless.
func shellWord(s string) string {
	const plain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+./:@,%"
	if s != "" && strings.Trim(s, plain) == "" {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// lower reports whether the number a is less than b; false if either is none.
func lower(a, b string) bool {
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && x < y
}
