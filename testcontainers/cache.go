package testcontainers

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// sharedCache is where root keeps servers when its own home cannot be entered
// by the unprivileged user that has to run them.
const sharedCache = "/var/cache/holdfast"

// CacheDir is the directory provisioned servers and images are kept in:
// $HOLDFAST_CACHE, else "holdfast" in the user's cache directory, except that
// root uses /var/cache/holdfast when others may not enter its home. It need
// not exist.
func CacheDir(getenv func(string) string) (string, error) {
	if dir := getenv("HOLDFAST_CACHE"); dir != "" {
		if !filepath.IsAbs(dir) {
			return "", fmt.Errorf("HOLDFAST_CACHE is not an absolute path: %q", dir)
		}
		return dir, nil
	}
	base := getenv("XDG_CACHE_HOME")
	if home := getenv("HOME"); base == "" && home != "" {
		base = filepath.Join(home, ".cache")
	}
	if os.Geteuid() == 0 && (base == "" || !enterableByAll(base)) {
		return sharedCache, nil
	}
	if base == "" {
		return "", errors.New("no cache directory: set HOLDFAST_CACHE or HOME")
	}
	return filepath.Join(base, "holdfast"), nil
}

// serverDir is where the provisioner puts one pinned build. The exact version
// is in the name, so that a new pin never replaces files in use.
func serverDir(cache, engine string, p npmPackage) string {
	return filepath.Join(cache, "servers", engine+"-"+p.version)
}

// enterableByAll reports whether any user may walk to path; parts that do not
// exist yet will be made by us, enterable.
func enterableByAll(path string) bool {
	for dir := filepath.Clean(path); ; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err == nil && info.Mode().Perm()&0o001 == 0 {
			return false
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}
