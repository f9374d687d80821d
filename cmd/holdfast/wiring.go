package main

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/agent"
	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"github.com/holdfastdb/holdfast/stream"
)

// allEngines is where modules are wired in.
func allEngines() []engines.Engine { return []engines.Engine{postgres.New()} }

func engineByName(name string) (engines.Engine, error) {
	for _, e := range allEngines() {
		if e.Name() == name {
			return e, nil
		}
	}
	return nil, fmt.Errorf("this build has no engine %q", name)
}

func engineForURL(raw string) (engines.Engine, error) {
	scheme, _, _ := strings.Cut(raw, "://")
	var known []string
	for _, e := range allEngines() {
		if slices.Contains(e.Schemes(), scheme) {
			return e, nil
		}
		known = append(known, e.Schemes()...)
	}
	return nil, hferr.NewUsage("database URL", fmt.Errorf("no engine for the scheme %q", scheme), "known: "+strings.Join(known, ", "))
}

// openStore opens the existing store behind a repository URL.
func openStore(_ context.Context, raw string) (blob.Store, error) { return storeAt(raw, true) }

// createStore opens the store for init, which may make its directory.
func createStore(raw string) (blob.Store, error) { return storeAt(raw, false) }

func storeAt(raw string, mustExist bool) (blob.Store, error) {
	u, err := url.Parse(raw)
	if err != nil || u.Scheme != "file" || u.Host != "" || u.Path == "" {
		return nil, hferr.NewUsage("repository URL "+raw, errors.New("not a URL this build can open"), "want file:///absolute/path")
	}
	return file.Open(u.Path, file.Options{MustExist: mustExist, Clock: time.Now})
}

// target is one database a command works on.
type target struct {
	name     string
	url      string
	password secret.Text
	db       config.Database
}

// configFile finds and reads the configuration; nil when there is none and
// none was asked for.
func (a *app) configFile() (*config.File, error) {
	path := a.flags.config
	if path == "" {
		path, _ = a.env("HOLDFAST_CONFIG")
	}
	if path != "" {
		return config.Load(path)
	}
	for _, p := range []string{"holdfast.yaml", "/etc/holdfast/holdfast.yaml"} {
		if _, err := os.Stat(p); err == nil {
			return config.Load(p)
		}
	}
	return &config.File{}, nil
}

// resolve turns a name or URL into a target.
func (a *app) resolve(f *config.File, arg string) (target, error) {
	if strings.Contains(arg, "://") {
		return a.resolveURL(arg)
	}
	d, ok := f.Database(arg)
	t := target{name: arg, url: d.URL, db: d}
	if !ok {
		return t, nil // known to the repository, perhaps, but not reachable
	}
	var err error
	t.password, err = d.Password(a.env)
	return t, err
}

func (a *app) resolveURL(arg string) (target, error) {
	clean, password, err := config.SplitPassword(arg)
	if err != nil {
		return target{}, hferr.NewUsage("database URL", err, "")
	}
	if !password.Empty() {
		fmt.Fprintln(a.err, "holdfast: a password in a URL is visible to every user of this host; use --password-file or ~/.pgpass")
	}
	if a.flags.passwordFile != "" {
		d := config.Database{PasswordFile: a.flags.passwordFile}
		if password, err = d.Password(a.env); err != nil {
			return target{}, err
		}
	}
	t := target{name: a.flags.name, url: clean, password: password}
	if t.name == "" {
		t.name = nameFromURL(clean)
	}
	return t, nil
}

// nameFromURL is the host, with a port that is not the usual one.
func nameFromURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil || u.Hostname() == "" || strings.HasPrefix(u.Hostname(), "/") {
		return "local"
	}
	name := strings.Map(func(r rune) rune {
		if r == ':' || r == '/' {
			return '-'
		}
		return r
	}, u.Hostname())
	if p := u.Port(); p != "" && p != "5432" {
		name += "-" + p
	}
	return name
}

// targets resolves the arguments, or every configured database.
func (a *app) targets(f *config.File, args []string) ([]target, error) {
	if len(args) == 0 {
		for _, d := range f.Databases {
			args = append(args, d.Name)
		}
	}
	if len(args) == 0 {
		return nil, hferr.NewUsage("which database?", errors.New("none named and none configured"), "name one, give its URL, or write a holdfast.yaml")
	}
	var out []target
	for _, arg := range args {
		t, err := a.resolve(f, arg)
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// connect opens a target's source.
func (a *app) connect(ctx context.Context, t target) (engines.Engine, engines.Source, error) {
	if t.url == "" {
		return nil, nil, hferr.NewUsage("connect to "+t.name, errors.New("it is not in the configuration"), "give its URL instead, or add it to holdfast.yaml")
	}
	e, err := engineForURL(t.url)
	if err != nil {
		return nil, nil, err
	}
	s, err := e.Connect(ctx, engines.ConnectOptions{URL: t.url, Password: t.password, Database: t.name, Log: a.log, Clock: a.clock})
	return e, s, err
}

// repoURL is where the repository is said to be.
func (a *app) repoURL(f *config.File) (string, error) {
	raw := a.flags.repo
	if raw == "" {
		raw, _ = a.env("HOLDFAST_REPO")
	}
	if raw == "" {
		raw = f.Repository.URL
	}
	if raw == "" {
		return "", hferr.NewUsage("which repository?", errors.New("none given"), "use --repo file:///path, $HOLDFAST_REPO, or repository.url in holdfast.yaml")
	}
	return raw, nil
}

// openRepo opens the repository with whatever key was given.
func (a *app) openRepo(ctx context.Context, f *config.File) (*repo.Repo, string, error) {
	raw, err := a.repoURL(f)
	if err != nil {
		return nil, "", err
	}
	st, err := openStore(ctx, raw)
	if err != nil {
		return nil, "", err
	}
	o := repo.Options{Log: a.log, Clock: a.clock}
	u, err := a.unlock(f)
	if errors.Is(err, config.ErrNoSecret) {
		// Only a repository made with --unencrypted opens without a key.
		if r, oerr := repo.Open(ctx, st, repo.Unlock{}, o); !errors.Is(oerr, repo.ErrKey) {
			return r, raw, oerr
		}
		u, err = a.askKey()
	}
	if err != nil {
		return nil, "", err
	}
	r, err := repo.Open(ctx, st, u, o)
	return r, raw, err
}

// deps are the jobs' dependencies.
func (a *app) deps(r *repo.Repo) agent.Deps {
	return agent.Deps{Repo: r, Log: a.log, Clock: a.clock, Tool: "holdfast " + version()}
}

// streamOptions are the pipeline's, with the process's one budget.
func (a *app) streamOptions(p stream.Progress) (stream.Options, error) {
	b, err := stream.NewBudget(int64(a.flags.memory))
	if err != nil {
		return stream.Options{}, hferr.NewUsage("--memory", err, "")
	}
	return stream.Options{Budget: b, Workers: a.flags.workers, Log: a.log, Clock: a.clock, Progress: p}, nil
}

// version is the module version Go recorded, or the commit of a source build.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && len(s.Value) >= 12 {
			return "devel-" + s.Value[:12]
		}
	}
	return "devel"
}
