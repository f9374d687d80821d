package testcontainers

import (
	"runtime"
	"strings"
	"syscall"
)

// recipe is everything this package knows about one engine's servers: how
// they are found, how they are got, and how they are made to end. A new engine
// is a new entry in recipes, and nothing else here.
type recipe struct {
	engine string
	// server is the binary that must exist, and that says its version when
	// asked with --version.
	server string
	// dirs are the places packages install one major version to; %s is it.
	dirs []string
	// users are tried in order when we are root, which servers refuse to be.
	users []string
	// quit makes the server end at once without tidying its data, which
	// nobody will read again, but with its shared memory given back.
	quit syscall.Signal
	// image is the container image of one major version; %s is it. local is
	// the name of the image that the provisioner builds.
	image, local string
	// packages are the pinned npm packages that carry server binaries, by
	// major version.
	packages map[string]npmPackage
	// install names a distribution package for the hint; %s is the version.
	install string
}

// npmPackage is one exactly pinned server build. The hashes are the
// registry's own "integrity" values, by GOARCH, noted when the version was
// pinned: what arrives is compared with them.
type npmPackage struct {
	version   string
	integrity map[string]string
}

// recipeFor returns the engine's recipe.
func recipeFor(engine string) (recipe, bool) {
	for _, r := range recipes() {
		if r.engine == engine {
			return r, true
		}
	}
	return recipe{}, false
}

func recipes() []recipe {
	return []recipe{{
		engine:  "postgres",
		server:  "postgres",
		dirs:    []string{"/usr/lib/postgresql/%s/bin", "/usr/pgsql-%s/bin"},
		users:   []string{"postgres", "nobody"},
		quit:    syscall.SIGQUIT, // "immediate" in PostgreSQL's words: no checkpoint
		image:   "postgres:%s",
		local:   "holdfast/postgres:%s",
		install: "postgresql-%s",
		packages: map[string]npmPackage{
			"13": {"13.23.0-beta.16", map[string]string{
				"amd64": "sha512-0ipxynPYHBsr6aM8BS4yKdLNdYwWD08Xpu05JrvMkcLezmCr0hd0hA9Bq4mR+CdmY0flRKEtgkPbZhvhvDR4+w==",
			}},
			"14": {"14.23.0-beta.17", map[string]string{
				"amd64": "sha512-WlG1LDcOwA+V0uYSdSGCwqk/aDPiMX/X23cgNdYY5YcBprXjOH3IFoeCrgeXsct4Ep8LL8UsBP9/Ho2mpoea1w==",
			}},
			"15": {"15.18.0-beta.17", map[string]string{
				"amd64": "sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==",
				"arm64": "sha512-ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==",
			}},
			"16": {"16.14.0-beta.17", map[string]string{
				"amd64": "sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==",
				"arm64": "sha512-LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==",
			}},
			"17": {"17.10.0-beta.17", map[string]string{
				"amd64": "sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==",
				"arm64": "sha512-mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==",
			}},
			"18": {"18.4.0-beta.17", map[string]string{
				"amd64": "sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
				"arm64": "sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
			}},
		},
	}}
}

// binVariable is the environment variable that names the directory of one
// version's binaries: HOLDFAST_POSTGRES_BIN_15.
func (r recipe) binVariable(version string) string {
	return "HOLDFAST_" + strings.ToUpper(r.engine) + "_BIN_" + version
}

// npmName is the package that carries builds for this machine.
func npmName() string {
	arch := runtime.GOARCH
	if arch == "amd64" {
		arch = "x64"
	}
	return "@embedded-postgres/linux-" + arch
}
