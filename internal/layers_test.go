// Package internal holds what only this module may import. This file tests
// the house's layers without a linter, so that `go test` alone keeps them.
package internal

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"
)

const module = "github.com/holdfastdb/holdfast/"

// rank orders the layers of docs/layers.md; a package may import only what
// ranks lower, or its own layer's folder.
func rank(path string) (int, string) {
	for _, l := range []struct {
		prefix string
		rank   int
	}{
		{"internal/secret", 0}, {"internal/hferr", 0}, {"internal/diskfs", 0}, {"internal/underrace", 0},
		{"internal/blob", 1}, {"internal/repo", 2},
		{"stream", 3}, {"wal", 3}, {"consistency", 3}, {"testcontainers", 3},
		{"engines", 4}, {"verify", 5}, {"internal/agent", 6}, {"internal/config", 1}, {"cmd", 7},
		{"docs", 0}, {"internal", 8},
	} {
		if path == l.prefix || strings.HasPrefix(path, l.prefix+"/") {
			return l.rank, l.prefix
		}
	}
	return -1, path
}

func TestLayers(t *testing.T) {
	cmd := exec.Command("go", "list", "-json=ImportPath,Imports", "./...")
	cmd.Dir = ".."
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	dec, seen := json.NewDecoder(strings.NewReader(string(out))), 0
	for {
		var p struct {
			ImportPath string
			Imports    []string
		}
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		seen++
		checkImports(t, strings.TrimPrefix(p.ImportPath, module), p.Imports)
	}
	if seen < 10 {
		t.Fatalf("only %d packages listed", seen)
	}
}

// engineOf is the engine whose folder holds a package.
func engineOf(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "engines/"), "/")
	return name
}

func checkImports(t *testing.T, from string, imports []string) {
	r, layer := rank(from)
	if r < 0 {
		t.Errorf("%s belongs to no layer: add it to docs/layers.md and here", from)
	}
	for _, imp := range imports {
		to, ours := strings.CutPrefix(imp, module)
		if !ours {
			continue
		}
		tr, toLayer := rank(to)
		concrete := strings.HasPrefix(to, "engines/") && to != "engines/enginetest"
		switch {
		case concrete && r != 7 && engineOf(from) != engineOf(to):
			t.Errorf("%s imports the concrete engine %s: only cmd wires one in", from, to)
		case layer != toLayer && tr >= r:
			t.Errorf("%s imports %s: arrows run down only", from, to)
		case strings.HasPrefix(to, "internal/blob/") && r > 1 && r < 7:
			t.Errorf("%s imports the driver %s: storage is reached through internal/repo", from, to)
		}
	}
}
