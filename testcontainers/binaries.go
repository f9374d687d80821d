package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// Binaries is one server version found on this host.
type Binaries struct {
	Dir     string // directory that holds the server's binaries
	Version string // what the server binary says of itself, "15.18"
	Source  string // how it was found, for the log
}

// Finder looks for server binaries on this host.
type Finder struct {
	// Getenv reads the caller's environment: HOLDFAST_<ENGINE>_BIN_<major>,
	// PATH, HOLDFAST_CACHE, XDG_CACHE_HOME and HOME.
	Getenv func(string) string
}

// Find returns the binaries of one major version. In this order it tries the
// directory in HOLDFAST_<ENGINE>_BIN_<major> (an unusable one is an error, not
// a reason to look on), the directories of distribution packages, PATH, and
// the provisioner's cache. A directory counts when its server binary runs and
// says the version asked for. Otherwise the error wraps ErrMissing and names
// every place looked at.
func (f Finder) Find(ctx context.Context, engine, version string) (Binaries, error) {
	r, ok := recipeFor(engine)
	if !ok {
		return Binaries{}, fmt.Errorf("%w: unknown engine %q", ErrMissing, engine)
	}
	if version == "" {
		return Binaries{}, fmt.Errorf("%w: no %s version was asked for", ErrMissing, engine)
	}
	if dir := f.Getenv(r.binVariable(version)); dir != "" {
		b, err := r.probe(ctx, dir, version)
		if err != nil {
			return Binaries{}, hferr.NewUsage("use "+r.binVariable(version), err,
				"point it at a directory with a "+r.server+" of version "+version+", or unset it")
		}
		b.Source = r.binVariable(version)
		return b, nil
	}
	places, err := f.places(r, version)
	if err != nil {
		return Binaries{}, err
	}
	looked := []string{"$" + r.binVariable(version) + " (unset)"}
	for _, p := range places {
		b, err := r.probe(ctx, p.dir, version)
		if err == nil {
			b.Source = p.source
			return b, nil
		}
		if ctx.Err() != nil {
			return Binaries{}, ctx.Err()
		}
		looked = append(looked, p.dir+" ("+shortReason(err)+")")
	}
	return Binaries{}, hferr.New("find "+engine+" "+version,
		fmt.Errorf("%w; looked in %s", ErrMissing, strings.Join(looked, ", ")), r.howToGet(version))
}

type place struct{ dir, source string }

func (f Finder) places(r recipe, version string) ([]place, error) {
	var ps []place
	for _, d := range r.dirs {
		ps = append(ps, place{fmt.Sprintf(d, version), "distribution package"})
	}
	for _, d := range filepath.SplitList(f.Getenv("PATH")) {
		if !filepath.IsAbs(d) {
			continue
		}
		if _, err := os.Stat(filepath.Join(d, r.server)); err == nil {
			ps = append(ps, place{d, "PATH"})
		}
	}
	if p, ok := r.packages[version]; ok {
		cache, err := CacheDir(f.Getenv)
		if err != nil {
			return nil, err
		}
		ps = append(ps, place{filepath.Join(serverDir(cache, r.engine, p), "bin"), "provisioned"})
	}
	return ps, nil
}

func (r recipe) howToGet(version string) string {
	hint := fmt.Sprintf("install %s, or set %s", fmt.Sprintf(r.install, version), r.binVariable(version))
	if _, ok := r.packages[version]; ok {
		hint += ", or run `make servers` (go run ./testcontainers/provision " + r.engine + "@" + version + ")"
	}
	return hint
}

var errWrongVersion = errors.New("another version")

// probe asks the server binary in dir for its version.
func (r recipe) probe(ctx context.Context, dir, version string) (Binaries, error) {
	bin := filepath.Join(dir, r.server)
	if _, err := os.Stat(bin); err != nil {
		return Binaries{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, bin, "--version")
	cmd.Env = []string{"LC_ALL=C"}
	var diag strings.Builder
	cmd.Stderr = &diag
	out, err := cmd.Output()
	if err != nil {
		return Binaries{}, fmt.Errorf("run %s --version: %w: %s", bin, err, strings.TrimSpace(diag.String()))
	}
	full, major, err := parseVersion(string(out))
	if err != nil {
		return Binaries{}, fmt.Errorf("%s: %w", bin, err)
	}
	if major != version {
		return Binaries{}, fmt.Errorf("%w: %s is %s, not %s", errWrongVersion, bin, full, version)
	}
	return Binaries{Dir: dir, Version: full}, nil
}

// shortReason keeps the list of places readable: the path is there already.
func shortReason(err error) string {
	if errors.Is(err, os.ErrNotExist) {
		return "nothing there"
	}
	if errors.Is(err, errWrongVersion) {
		return "another version"
	}
	return err.Error()
}
