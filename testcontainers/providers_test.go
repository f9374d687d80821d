package testcontainers_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
	tc "github.com/holdfastdb/holdfast/testcontainers"
)

func providers() map[string]tc.Provider {
	return map[string]tc.Provider{
		tc.ProcessProvider: tc.NewProcess(quiet(), tc.Finder{Getenv: os.Getenv}),
		tc.DockerProvider:  tc.NewDocker(quiet(), tc.DockerOptions{}),
	}
}

func TestProcess(t *testing.T) { t.Parallel(); suite(t, providers()[tc.ProcessProvider]) }
func TestDocker(t *testing.T)  { t.Parallel(); suite(t, providers()[tc.DockerProvider]) }

func TestDockerIsIsolated(t *testing.T) {
	t.Parallel()
	box := provision(t, providers()[tc.DockerProvider], tc.Spec{Engine: "postgres", Version: major, Dir: shortDir(t), Label: testLabel})
	for _, line := range strings.Split(output(t, box, "cat /proc/net/dev"), "\n")[2:] {
		if name, _, _ := strings.Cut(strings.TrimSpace(line), ":"); name != "lo" {
			t.Errorf("the container has the network interface %q", name)
		}
	}
	for _, line := range strings.Split(output(t, box, "cat /proc/mounts"), "\n") {
		f := strings.Fields(line)
		if f[1] == "/holdfast/bin" && !strings.HasPrefix(f[3], "ro,") {
			t.Errorf("shared files can be written: %s", line)
		}
	}
	if got := output(t, box, "test -e /var/run/docker.sock && echo there || echo absent"); got != "absent" {
		t.Error("the daemon's socket is in the container")
	}
	if d := box.Describe(); d.Isolation != "container, no network" || !strings.HasPrefix(d.ImageID, "sha256:") && !strings.Contains(d.ImageID, "@sha256:") {
		t.Errorf("description: %+v", d)
	}
	if got := box.GuestPath(filepath.Join(box.Dir(), "a")); got == filepath.Join(box.Dir(), "a") {
		t.Error("host path and guest path are the same")
	}
}

func TestAuto(t *testing.T) {
	t.Parallel()
	process := providers()[tc.ProcessProvider]
	absent := missing{}
	auto := tc.Auto(quiet(), absent, process)

	box := provision(t, auto, tc.Spec{Engine: "postgres", Version: major, Dir: shortDir(t), Label: testLabel})
	if box.Describe().Provider != tc.ProcessProvider {
		t.Errorf("got %+v", box.Describe())
	}
	if f, ok := box.(tc.Fallen); !ok || !errors.Is(f.Fallback(), tc.ErrMissing) {
		t.Error("the reason for the fall-back is not there")
	}
	if _, ok := box.(tc.Killer); !ok {
		t.Error("the sandbox lost KillAll")
	}

	first := provision(t, tc.Auto(quiet(), process, absent), tc.Spec{Engine: "postgres", Version: major, Dir: shortDir(t), Label: testLabel})
	if f, ok := first.(tc.Fallen); !ok || f.Fallback() != nil {
		t.Error("the first choice counts as a fall-back")
	}

	spec := tc.Spec{Engine: "postgres", Version: "99", Dir: shortDir(t)}
	_, err := auto.Provision(t.Context(), spec)
	if !errors.Is(err, tc.ErrMissing) || !strings.Contains(err.Error(), "nothing here") || !strings.Contains(err.Error(), "HOLDFAST_POSTGRES_BIN_99") ||
		!strings.Contains(hferr.HintOf(err), "postgresql-99") {
		t.Errorf("nobody has it: %v (hint %q)", err, hferr.HintOf(err))
	}
	spec.Provider = "absent"
	if _, err := auto.Provision(t.Context(), spec); err == nil || strings.Contains(err.Error(), "process:") {
		t.Errorf("forced to one provider: %v", err)
	}
	spec.Provider = "podman"
	if _, err := auto.Provision(t.Context(), spec); err == nil || errors.Is(err, tc.ErrMissing) || hferr.KindOf(err) != hferr.Usage {
		t.Errorf("an unknown provider: %v", err)
	}
	broken := tc.Auto(quiet(), failing{}, process)
	if _, err := broken.Provision(t.Context(), tc.Spec{Engine: "postgres", Version: major, Dir: shortDir(t)}); !errors.Is(err, errBroken) {
		t.Errorf("a real failure was passed over: %v", err)
	}
}
