package postgres

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// standbyNames is a parsed synchronous_standby_names. The zero value means
// that no commit waits for anybody.
type standbyNames struct {
	Any     bool     // ANY n: a quorum; otherwise FIRST n, by priority
	Num     int      // acknowledgements a commit waits for
	Members []string // as written; "*" matches every receiver
}

var errStandbyNames = errors.New("not the form of synchronous_standby_names")

// parseStandbyNames reads the setting by the server's own grammar
// (replication/syncrep_gram.y and syncrep_scanner.l): a list, "n (list)",
// "FIRST n (list)" or "ANY n (list)"; names may be quoted, keywords have any
// case, and a bare list means FIRST 1.
func parseStandbyNames(s string) (standbyNames, error) {
	tokens, err := scanStandbyNames(s)
	if err != nil || len(tokens) == 0 {
		return standbyNames{}, err
	}
	spec := standbyNames{Num: 1}
	first, rest := tokens[0], tokens
	bracket := func(i int) bool { return len(tokens) > i && tokens[i].kind == '(' }
	switch {
	case first.kind == tokenKeyword:
		if len(tokens) < 2 || tokens[1].kind != tokenNumber || !bracket(2) {
			return standbyNames{}, fmt.Errorf("%w: %s must be followed by a number and a list in parentheses", errStandbyNames, first.text)
		}
		spec.Any = strings.EqualFold(first.text, "any")
		rest = tokens[1:]
		fallthrough
	case first.kind == tokenNumber && bracket(1):
		if spec.Num, err = strconv.Atoi(rest[0].text); err != nil || spec.Num < 1 {
			return standbyNames{}, fmt.Errorf("%w: %s acknowledgements", errStandbyNames, rest[0].text)
		}
		if rest[len(rest)-1].kind != ')' {
			return standbyNames{}, fmt.Errorf("%w: no closing parenthesis at the end", errStandbyNames)
		}
		rest = rest[2 : len(rest)-1]
	}
	for i, t := range rest {
		if name := t.kind == tokenName || t.kind == tokenNumber; name != (i%2 == 0) || !name && t.kind != ',' {
			return standbyNames{}, fmt.Errorf("%w: %q out of place", errStandbyNames, t.text)
		}
		if i%2 == 0 {
			spec.Members = append(spec.Members, t.text)
		}
	}
	if len(rest)%2 == 0 {
		return standbyNames{}, fmt.Errorf("%w: a name is missing", errStandbyNames)
	}
	return spec, nil
}

// Kinds of tokens beside the characters "(", ")" and ",".
const (
	tokenName    = 'n'
	tokenNumber  = '0'
	tokenKeyword = 'k' // FIRST or ANY, unquoted
)

type standbyToken struct {
	kind byte
	text string
}

func scanStandbyNames(s string) ([]standbyToken, error) {
	var out []standbyToken
	for s != "" {
		c := s[0]
		n := 1
		switch {
		case strings.IndexByte(" \t\n\r\f\v", c) >= 0:
			s = s[1:]
			continue
		case c == '(' || c == ')' || c == ',':
			out = append(out, standbyToken{c, s[:1]})
		case c == '*':
			out = append(out, standbyToken{tokenName, "*"})
		case c == '"':
			text, length, ok := unquoteName(s)
			if !ok {
				return nil, fmt.Errorf("%w: a quote is not closed", errStandbyNames)
			}
			n = length
			out = append(out, standbyToken{tokenName, text})
		case isDigit(c):
			for n < len(s) && isDigit(s[n]) {
				n++
			}
			out = append(out, standbyToken{tokenNumber, s[:n]})
		case isNameStart(c):
			for n < len(s) && (isNameStart(s[n]) || isDigit(s[n]) || s[n] == '$') {
				n++
			}
			kind := byte(tokenName)
			if strings.EqualFold(s[:n], "first") || strings.EqualFold(s[:n], "any") {
				kind = tokenKeyword
			}
			out = append(out, standbyToken{kind, s[:n]})
		default:
			return nil, fmt.Errorf("%w: %q", errStandbyNames, c)
		}
		s = s[n:]
	}
	return out, nil
}

func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isNameStart(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || c == '_' || c >= 0x80
}

// unquoteName reads a name in double quotes at the start of s; a doubled
// quote stands for one. length is what it takes of s.
func unquoteName(s string) (name string, length int, ok bool) {
	for i := 1; i < len(s); i++ {
		if s[i] != '"' {
			continue
		}
		if i+1 < len(s) && s[i+1] == '"' {
			i++
			continue
		}
		return strings.ReplaceAll(s[1:i], `""`, `"`), i + 1, true
	}
	return "", 0, false
}

// find is where a receiver of this name stands in the list, by the rule of
// SyncRepGetStandbyPriority (replication/syncrep.c): ASCII case does not
// count and "*" matches everybody. -1: it is not meant. exact tells a name
// from a star.
func (n standbyNames) find(receiver string) (index int, exact bool) {
	index = -1
	for i, m := range n.Members {
		same := asciiLower(m) == asciiLower(receiver)
		if (same || m == "*") && index < 0 {
			index = i
		}
		exact = exact || same
	}
	return index, exact
}

func asciiLower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c - 'A' + 'a'
		}
	}
	return string(b)
}

// others are the members beside a receiver, without repetition.
func (n standbyNames) others(receiver string) []string {
	var out []string
	seen := map[string]bool{asciiLower(receiver): true}
	for _, m := range n.Members {
		if !seen[asciiLower(m)] {
			seen[asciiLower(m)] = true
			out = append(out, m)
		}
	}
	return out
}

// String writes the setting in its canonical form.
func (n standbyNames) String() string {
	if len(n.Members) == 0 {
		return ""
	}
	quoted := make([]string, len(n.Members))
	for i, m := range n.Members {
		quoted[i] = quoteStandby(m)
	}
	method := "FIRST"
	if n.Any {
		method = "ANY"
	}
	return fmt.Sprintf("%s %d (%s)", method, n.Num, strings.Join(quoted, ", "))
}

// quoteStandby writes one member, in quotes only where it needs them.
func quoteStandby(name string) string {
	if t, err := scanStandbyNames(name); err == nil && len(t) == 1 && t[0].text == name && (t[0].kind == tokenName || t[0].kind == tokenNumber) {
		return name
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`
}

// setSQL is the statement that makes n the server's setting.
func (n standbyNames) setSQL() string {
	return "ALTER SYSTEM SET synchronous_standby_names = '" + strings.ReplaceAll(n.String(), "'", "''") + "'; SELECT pg_reload_conf();"
}
