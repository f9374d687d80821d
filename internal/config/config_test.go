package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const good = `
repository:
  url: file:///var/lib/holdfast
  key: {passphrase_file: /run/secrets/holdfast}
databases:
  - name: orders
    url: postgres://holdfast@db1:5432/postgres
    heartbeat: {every: 2s}
    stream: {flush_every: 5s, max_segment: 16MiB}
    objectives: {rpo: 10s, rto: 15m}
    drill:
      image: postgres:17
      checks: [{name: some, sql: "select true", expect: "t"}]
`

func TestParse(t *testing.T) {
	f, err := Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	d, ok := f.Database("orders")
	if !ok || time.Duration(d.Objectives.RTO) != 15*time.Minute || d.Stream.MaxSegment != 16<<20 || d.Heartbeat.Every.Or(time.Hour) != 2*time.Second || d.Drill.Checks[0].Expect != "t" {
		t.Errorf("%+v", d)
	}
	if _, err := Parse(nil); err != nil {
		t.Errorf("an empty file: %v", err)
	}
}

func TestParseRefuses(t *testing.T) {
	for name, change := range map[string][2]string{
		"unknown key":         {"url: file", "retnetion: 3\n  url: file"},
		"unknown nested key":  {"{every: 2s}", "{evry: 2s}"},
		"password in a URL":   {"holdfast@db1", "holdfast:s3cret@db1"},
		"not a URL":           {"postgres://holdfast@db1:5432/postgres", "db1"},
		"bad name":            {"name: orders", "name: ../orders"},
		"two keys":            {"{passphrase_file: /run/secrets/holdfast}", "{passphrase_file: /a, identity_env: B}"},
		"bad duration":        {"rpo: 10s", "rpo: ten"},
		"negative duration":   {"rpo: 10s", "rpo: -10s"},
		"bad size":            {"16MiB", "lots"},
		"check without sql":   {`sql: "select true", `, ""},
		"second document":     {"databases:", "---\ndatabases:"},
		"both password kinds": {"    heartbeat", "    password_file: a\n    password_env: B\n    heartbeat"},
	} {
		if !strings.Contains(good, change[0]) {
			t.Fatalf("%s: nothing to change", name)
		}
		_, err := Parse([]byte(strings.Replace(good, change[0], change[1], 1)))
		if err == nil {
			t.Errorf("%s: accepted", name)
		} else if strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: the error shows the password: %v", name, err)
		}
	}
	twice := good + "  - {name: orders, url: 'postgres://x@y/z'}\n"
	if _, err := Parse([]byte(twice)); err == nil {
		t.Error("a name used twice: accepted")
	}
}

func TestDurationsAndSizes(t *testing.T) {
	for text, want := range map[string]time.Duration{"10s": 10 * time.Second, "14d": 14 * 24 * time.Hour, "1.5d": 36 * time.Hour} {
		var d Duration
		if err := d.UnmarshalText([]byte(text)); err != nil || time.Duration(d) != want {
			t.Errorf("%s: %v, %v", text, time.Duration(d), err)
		}
	}
	for text, want := range map[string]Size{"64MiB": 64 << 20, "64MB": 64e6, "1GiB": 1 << 30} {
		var z Size
		if err := z.Set(text); err != nil || z != want {
			t.Errorf("%s: %d, %v", text, z, err)
		}
	}
}

func TestKeyResolve(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return p
	}
	env := func(k string) (string, bool) { v, ok := map[string]string{"P": "from env"}[k]; return v, ok }
	if k, err := (Key{PassphraseFile: write("p", "secret words\n")}).Resolve(env); err != nil || k.Passphrase.Reveal() != "secret words" {
		t.Errorf("passphrase file: %v", err)
	}
	if k, err := (Key{PassphraseEnv: "P"}).Resolve(env); err != nil || k.Passphrase.Reveal() != "from env" {
		t.Errorf("passphrase variable: %v", err)
	}
	id := write("i", "# created: today\n# public key: age1x\nAGE-SECRET-KEY-1X\n")
	if k, err := (Key{IdentityFile: id}).Resolve(env); err != nil || k.Identity.Reveal() != "AGE-SECRET-KEY-1X" {
		t.Errorf("identity file: %v", err)
	}
	if _, err := (Key{}).Resolve(env); !errors.Is(err, ErrNoSecret) {
		t.Errorf("nothing given: %v", err)
	}
	for _, k := range []Key{{PassphraseFile: write("empty", "\n")}, {PassphraseFile: filepath.Join(dir, "missing")}, {PassphraseEnv: "UNSET"}, {IdentityFile: write("c", "# only comments\n")}} {
		if _, err := k.Resolve(env); err == nil || errors.Is(err, ErrNoSecret) {
			t.Errorf("%+v: %v", k, err)
		}
	}
}

func TestSplitPassword(t *testing.T) {
	clean, p, err := SplitPassword("postgres://u:p%40ss@h/db?sslmode=disable")
	if err != nil || clean != "postgres://u@h/db?sslmode=disable" || p.Reveal() != "p@ss" {
		t.Errorf("%q %q %v", clean, p.Reveal(), err)
	}
	if clean, p, err := SplitPassword("postgres://u@h/db"); err != nil || clean != "postgres://u@h/db" || !p.Empty() {
		t.Errorf("%q %v", clean, err)
	}
	if _, _, err := SplitPassword("postgres://u:hunter2@h:port:x/%zz"); err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("a broken URL: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, b []byte) {
		if c, err := Parse(b); err == nil && c == nil {
			t.Error("no error and no configuration")
		}
	})
}
