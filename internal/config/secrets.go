package config

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/secret"
)

// ErrNoSecret means that nothing was given to read a secret from.
var ErrNoSecret = errors.New("no secret given")

// Environment looks up a variable; os.LookupEnv in production.
type Environment func(string) (string, bool)

// Passphrase and identity, as resolved from a Key. At most one is set.
type ResolvedKey struct {
	Passphrase secret.Text
	Identity   secret.Text
}

// Resolve reads the key's secret. ErrNoSecret if the Key is empty.
func (k Key) Resolve(env Environment) (ResolvedKey, error) {
	switch {
	case k.PassphraseFile != "":
		s, err := readSecretFile(k.PassphraseFile)
		return ResolvedKey{Passphrase: s}, err
	case k.PassphraseEnv != "":
		s, err := readSecretEnv(env, k.PassphraseEnv)
		return ResolvedKey{Passphrase: s}, err
	case k.IdentityFile != "":
		s, err := readSecretFile(k.IdentityFile)
		if err != nil {
			return ResolvedKey{}, err
		}
		s, err = identityLine(s)
		return ResolvedKey{Identity: s}, err
	case k.IdentityEnv != "":
		s, err := readSecretEnv(env, k.IdentityEnv)
		return ResolvedKey{Identity: s}, err
	}
	return ResolvedKey{}, ErrNoSecret
}

// Password reads a database's password; empty when none is configured, and
// the driver's own sources (a .pgpass file) are then used.
func (d Database) Password(env Environment) (secret.Text, error) {
	switch {
	case d.PasswordFile != "":
		return readSecretFile(d.PasswordFile)
	case d.PasswordEnv != "":
		return readSecretEnv(env, d.PasswordEnv)
	}
	return secret.Text{}, nil
}

// SplitPassword takes a password out of a URL given on a command line, so
// that it is not carried on into errors, logs or records. It was visible in
// the process list already; cmd warns about that.
func SplitPassword(raw string) (clean string, password secret.Text, err error) {
	u, perr := url.Parse(raw)
	if perr != nil || u.Scheme == "" {
		return "", secret.Text{}, errors.New("not a URL (want postgres://user@host:port/database)")
	}
	if p, has := u.User.Password(); has {
		password = secret.New(p)
		u.User = url.User(u.User.Username())
	}
	return u.String(), password, nil
}

func readSecretFile(path string) (secret.Text, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return secret.Text{}, hferr.NewUsage("read a secret", err, "the file must exist and be readable by this user; mode 0400 or 0600")
	}
	s := strings.TrimRight(string(raw), "\r\n")
	if s == "" {
		return secret.Text{}, hferr.NewUsage("read a secret", fmt.Errorf("%s is empty", path), "")
	}
	return secret.New(s), nil
}

func readSecretEnv(env Environment, name string) (secret.Text, error) {
	v, ok := env(name)
	if !ok || v == "" {
		return secret.Text{}, hferr.NewUsage("read a secret", fmt.Errorf("the environment variable %s is not set", name), "")
	}
	return secret.New(v), nil
}

// identityLine finds the key in an age identity file, which may hold comments.
func identityLine(s secret.Text) (secret.Text, error) {
	for line := range strings.Lines(s.Reveal()) {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "#") {
			return secret.New(line), nil
		}
	}
	return secret.Text{}, hferr.NewUsage("read an identity file", errors.New("it holds no key"), "want a line that begins with AGE-SECRET-KEY-")
}
