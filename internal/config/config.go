// Package config reads holdfast.yaml and resolves what a command line names:
// which database, which repository, which key. Unknown keys are errors, and
// secrets are given by file or environment reference only and never printed.
//
// It opens no connection and no store; cmd wires what it resolves.
package config

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"regexp"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"go.yaml.in/yaml/v3"
)

// File is holdfast.yaml.
type File struct {
	Repository Repository `yaml:"repository"`
	Databases  []Database `yaml:"databases"`
}

// Repository says where backups live and what opens them.
type Repository struct {
	URL string `yaml:"url"` // file:///var/lib/holdfast
	Key Key    `yaml:"key"`
}

// Key references one secret; exactly one field is set.
type Key struct {
	PassphraseFile string `yaml:"passphrase_file"`
	PassphraseEnv  string `yaml:"passphrase_env"`
	IdentityFile   string `yaml:"identity_file"` // an age identity file, or the recovery key
	IdentityEnv    string `yaml:"identity_env"`
}

// Database is one configured server.
type Database struct {
	Name         string     `yaml:"name"`
	URL          string     `yaml:"url"`
	PasswordFile string     `yaml:"password_file"`
	PasswordEnv  string     `yaml:"password_env"`
	Heartbeat    Heartbeat  `yaml:"heartbeat"`
	Stream       Stream     `yaml:"stream"`
	Objectives   Objectives `yaml:"objectives"`
	Drill        Drill      `yaml:"drill"`
}

// Heartbeat is the row written at a known cadence; without it the RPO is only
// bounded by the last commit in the archive.
type Heartbeat struct {
	Every    Duration `yaml:"every"`
	Disabled bool     `yaml:"disabled"`
}

// Stream says how long a piece of log may wait before it is stored, and where
// it must be before it is acknowledged.
type Stream struct {
	FlushEvery Duration `yaml:"flush_every"`
	MaxSegment Size     `yaml:"max_segment"`
	Durability string   `yaml:"durability"` // "store" (default) or "spool"
	Spool      Spool    `yaml:"spool"`
}

// Spool is where `durability: spool` keeps log until the store has it.
type Spool struct {
	Dir   string `yaml:"dir"`
	Limit Size   `yaml:"limit"`
}

// minSpool leaves room for a file being written, one being stored, and the
// largest message of a server, several times over.
const minSpool = 16 << 20

// Durabilities of a stream.
const (
	DurabilityStore = "store"
	DurabilitySpool = "spool"
)

// Validate refuses what cannot work together.
func (s Stream) Validate() error {
	switch s.Durability {
	case "", DurabilityStore:
		if s.Spool.Dir != "" {
			return errors.New("a spool needs durability: spool")
		}
	case DurabilitySpool:
		if s.Spool.Limit != 0 && s.Spool.Limit < minSpool {
			return fmt.Errorf("spool.limit: at least %d MiB", minSpool>>20)
		}
		if s.Spool.Dir == "" {
			return errors.New("durability: spool needs spool.dir, a directory on a local disk")
		}
	default:
		return fmt.Errorf("durability %q: want store or spool", s.Durability)
	}
	return nil
}

// Objectives are what a drill's measurements are held against; zero: none.
type Objectives struct {
	RPO Duration `yaml:"rpo"`
	RTO Duration `yaml:"rto"`
}

// Drill says where and with which checks a copy is proved.
type Drill struct {
	Image    string  `yaml:"image"`
	Provider string  `yaml:"provider"` // "docker" or "process"; empty tries both
	Checks   []Check `yaml:"checks"`
}

// Check is one user's query; its first column of the first row is compared
// with Expect, or must be true or a number other than zero.
type Check struct {
	Name     string `yaml:"name"`
	Database string `yaml:"database"`
	SQL      string `yaml:"sql"`
	Expect   string `yaml:"expect"`
}

// Defaults of what a file leaves out.
const (
	DefaultBeat  = time.Second
	DefaultFlush = 5 * time.Second
	DefaultSpool = 4 << 30 // bytes
)

var nameRule = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// Load reads and validates one file.
func Load(path string) (*File, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, hferr.NewUsage("read the configuration", err, "name it with --config, or give a URL and --repo instead")
	}
	f, err := Parse(raw)
	if err != nil {
		return nil, hferr.NewUsage("configuration "+path, err, "")
	}
	return f, nil
}

// Parse decodes and validates a configuration. Unknown keys, duplicate names,
// and passwords inside URLs are errors.
func Parse(raw []byte) (*File, error) {
	var f File
	dec := yaml.NewDecoder(bytes.NewReader(raw))
	dec.KnownFields(true)
	if err := dec.Decode(&f); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := dec.Decode(new(File)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one YAML document")
	}
	return &f, f.validate()
}

func (f *File) validate() error {
	if f.Repository.Key.count() > 1 {
		return errors.New("repository.key: give one of passphrase_file, passphrase_env, identity_file, identity_env")
	}
	seen := map[string]bool{}
	for i, d := range f.Databases {
		where := fmt.Sprintf("databases[%d]", i)
		if !nameRule.MatchString(d.Name) {
			return fmt.Errorf("%s: name %q: want letters, digits, '.', '_' or '-', at most 63", where, d.Name)
		}
		if seen[d.Name] {
			return fmt.Errorf("%s: the name %q is used twice", where, d.Name)
		}
		seen[d.Name] = true
		if err := checkURL(d.URL); err != nil {
			return fmt.Errorf("databases.%s: url: %w", d.Name, err)
		}
		if d.PasswordFile != "" && d.PasswordEnv != "" {
			return fmt.Errorf("databases.%s: give password_file or password_env, not both", d.Name)
		}
		if err := d.Stream.Validate(); err != nil {
			return fmt.Errorf("databases.%s: stream: %w", d.Name, err)
		}
		for j, c := range d.Drill.Checks {
			if c.SQL == "" {
				return fmt.Errorf("databases.%s: drill.checks[%d]: sql is missing", d.Name, j)
			}
		}
	}
	return nil
}

// Database finds a configured database by name.
func (f *File) Database(name string) (Database, bool) {
	for _, d := range f.Databases {
		if d.Name == name {
			return d, true
		}
	}
	return Database{}, false
}

func (k Key) count() int {
	n := 0
	for _, s := range []string{k.PassphraseFile, k.PassphraseEnv, k.IdentityFile, k.IdentityEnv} {
		if s != "" {
			n++
		}
	}
	return n
}

// checkURL refuses what url.Parse refuses, without repeating the text: it may
// hold a password.
func checkURL(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme == "" {
		return errors.New("not a URL (want postgres://user@host:port/database)")
	}
	if _, has := u.User.Password(); has {
		return errors.New("it holds a password: use password_file, password_env or a .pgpass file instead")
	}
	return nil
}
