package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/moby/client"

	"github.com/holdfastdb/holdfast/verify"
)

// A drill in a container without a network, as `make test` provisions it. The
// command runs as root here, as the daemon's socket asks for.
func TestDrillInDocker(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Fatal("this test talks to the Docker daemon: run it as root")
	}
	cli, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	defer cli.Close()
	const needs = "this test needs a Docker daemon and an image: go run ./testcontainers/provision docker image:postgres@15"
	if _, err := cli.Ping(t.Context(), client.PingOptions{NegotiateAPIVersion: true}); err != nil {
		t.Fatalf("%v\n%s", err, needs)
	}
	s := newSite(t, "15") // the version of that image
	s.exec(schema...)
	s.must(append([]string{"backup"}, s.source()...)...)

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(s.ctx, holdfastBinary, "drill", databaseName, "--provider", "docker", "--output", "json",
		"--work-dir", s.path(), "--check", "select sum(balance) = 200000 from accounts")
	cmd.Env = append([]string{"PATH=/usr/bin:/bin", "DOCKER_HOST=" + os.Getenv("DOCKER_HOST")}, s.env...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	var d verify.Record
	if jerr := json.Unmarshal(stdout.Bytes(), &d); err != nil || jerr != nil {
		t.Fatalf("%v\n%s", errors.Join(err, jerr), stdout.String()+stderr.String()+"\n"+needs)
	}
	if d.Verdict != verify.Pass || !d.RTO.Reached || !d.RPO.Measured || d.Replayed.Bytes == 0 {
		t.Errorf("%s %q, RTO %+v, RPO %+v, log %+v", d.Verdict, d.Reasons, d.RTO, d.RPO, d.Replayed)
	}
	if box := d.Sandbox; box.Provider != "docker" || box.Isolation != "container, no network" || box.Image == "" || box.ImageID == "" || !strings.HasPrefix(box.Version, "15.") || box.Binaries != "" {
		t.Errorf("sandbox %+v", box)
	}
	for _, l := range d.Labels {
		if strings.Contains(l, "isolation") {
			t.Errorf("label %q", l)
		}
	}
	s.nothingLeft()
	list, err := cli.ContainerList(t.Context(), client.ContainerListOptions{All: true, Filters: make(client.Filters).Add("label", "holdfast.home")})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range list.Items {
		if home := c.Labels["holdfast.home"]; filepath.Dir(home) == s.path() {
			t.Errorf("container %s of %s is left", c.ID, home)
		}
	}
}
