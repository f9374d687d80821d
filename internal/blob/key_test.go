package blob

import (
	"errors"
	"path"
	"regexp"
	"strings"
	"testing"
)

func TestCheckKey(t *testing.T) {
	long := strings.Repeat("x", MaxSegment)
	cases := map[string]bool{
		"repo.json":              true,
		"l/a-b_c/pack/00/ff.x":   true,
		"A..b":                   true,
		long:                     true,
		long + "/" + long:        true,
		long + "x":               false,
		long + "/" + long + "/y": false,
		"":                       false,
		"/":                      false,
		"/a":                     false,
		"a/":                     false,
		"a//b":                   false,
		".":                      false,
		"..":                     false,
		"a/../b":                 false,
		".tmp/x":                 false,
		"a/.hidden":              false,
		"a b":                    false,
		"a\\b":                   false,
		"a\x00b":                 false,
		"a\nb":                   false,
		"é":                      false,
		"a:b":                    false,
		"@1":                     false,
	}
	for key, ok := range cases {
		err := CheckKey(key)
		if (err == nil) != ok {
			t.Errorf("CheckKey(%q) = %v, want ok=%v", key, err, ok)
		}
		if err != nil && !errors.Is(err, ErrBadKey) {
			t.Errorf("CheckKey(%q): %v is not ErrBadKey", key, err)
		}
	}
}

func TestCheckPrefix(t *testing.T) {
	cases := map[string]bool{
		"": true, "a": true, "a/": true, "a/b": true, "a/b/": true,
		"/": false, "/a": false, "a//": false, "..": false, "a/../": false, ".": false,
		"a/.": false, "a b": false, strings.Repeat("x", MaxSegment+1): false,
	}
	for prefix, ok := range cases {
		if err := CheckPrefix(prefix); (err == nil) != ok {
			t.Errorf("CheckPrefix(%q) = %v, want ok=%v", prefix, err, ok)
		}
	}
}

// FuzzCheckKey compares CheckKey with the key language written another way,
// and proves what drivers rely on: a good key is clean and local, and each
// of its prefixes is a good prefix.
func FuzzCheckKey(f *testing.F) {
	for _, s := range []string{"a/b", "..", "a/../b", "", "/", "a//b", ".x", "a\x00", "l/00-1/log/0.x"} {
		f.Add(s)
	}
	segment := regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*\z`)
	f.Fuzz(func(t *testing.T, key string) {
		good := segment.MatchString(key) && len(key) <= MaxKey
		for _, s := range strings.Split(key, "/") {
			good = good && len(s) <= MaxSegment
		}
		if err := CheckKey(key); (err == nil) != good {
			t.Fatalf("CheckKey(%q) = %v, want good=%v", key, err, good)
		}
		if !good {
			return
		}
		if path.Clean(key) != key || path.IsAbs(key) {
			t.Fatalf("%q is accepted but not a clean relative path", key)
		}
		for i := range key {
			if err := CheckPrefix(key[:i]); err != nil {
				t.Fatalf("CheckPrefix(%q) of a good key: %v", key[:i], err)
			}
		}
	})
}
