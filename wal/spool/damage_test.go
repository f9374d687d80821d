package spool

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// rewrite changes a file's bytes, durably.
func rewrite(t testing.TB, disk diskfs.FS, name string, change func([]byte) []byte) {
	t.Helper()
	body := contents(t, disk, name)
	must(t, disk.Unlink(name))
	h, err := disk.Create(name, 0o600)
	must(t, err)
	_, err = h.WriteAt(change(body), 0)
	must(t, errors.Join(err, h.Sync(), h.Close(), disk.SyncDir(".")))
}

func contents(t testing.TB, disk diskfs.FS, name string) []byte {
	t.Helper()
	h, err := disk.Open(name)
	must(t, err)
	info, err := h.Stat()
	must(t, err)
	body := make([]byte, info.Size())
	_, err = h.ReadAt(body, 0)
	must(t, err)
	return body
}

func flip(at int) func([]byte) []byte {
	return func(b []byte) []byte { b[at] ^= 0x40; return b }
}

func cut(at int) func([]byte) []byte { return func(b []byte) []byte { return b[:at] } }

// TestDamage flips, cuts and removes: what was durable and can be known to be
// so is reported, after all that stands before it.
func TestDamage(t *testing.T) {
	const one, two, three = "pg-7.0000000000000001.spool", "pg-7.0000000000000002.spool", "pg-7.0000000000000003.spool"
	seal := lineage(t, true)
	for what, c := range map[string]struct {
		name   string
		change func([]byte) []byte // nil: remove
		upTo   string              // of what is replayed
		ok     bool                // cannot be told from a crash
	}{
		"first frame":              {one, flip(600), "", false},
		"amid frames":              {one, flip(4*512 + 100), "b 0-1000", false},
		"length":                   {one, flip(4*512 + 1), "b 0-1000", false},
		"salt":                     {one, flip(20), "", false},
		"header":                   {one, flip(0), "", false},
		"file emptied":             {one, cut(512), "", false},
		"file truncated to naught": {one, cut(0), "", false},
		"last frame of a file":     {one, cut(8000), "b 0-4000", false},
		"second file":              {two, flip(600), "b 0-5000", false},
		"the newest file":          {three, flip(600), "b 0-10000", false},
		"a file is missing":        {two, nil, "b 0-5000", false},
		"padding":                  {one, flip(4*512 - 1), "b 0-12000", true},
		"the oldest is missing":    {one, nil, "b 5000-12000", true},
		"the newest is missing":    {three, nil, "b 0-10000", true},
		"the last write":           {three, cut(4 * 512), "b 0-11000", true},
	} {
		t.Run(what, func(t *testing.T) {
			disk := crashfs.New(1, nil)
			s := open(t, disk, seal, small())
			must(t, s.Begin("b", 0))
			for range 12 { // frames of 3 units, five a file
				add(t, s, 1000)
			}
			kill(s)
			if c.change == nil {
				must(t, disk.Unlink(c.name))
			} else {
				rewrite(t, disk, c.name, c.change)
			}
			s = open(t, disk, seal, small())
			got, err := replay(t, s)
			if strings.Join(got, " ") != c.upTo {
				t.Errorf("replayed %q, want %q", got, c.upTo)
			}
			var d *DamageError
			if c.ok {
				if err != nil || s.Held().Damage != nil {
					t.Errorf("%v", err)
				}
				return
			}
			if !errors.As(err, &d) || !errors.Is(err, repo.ErrDamaged) || d.File != c.name || hferr.HintOf(err) == "" {
				t.Fatalf("%v", err)
			}
			setAside(t, s, disk, seal, what)
		})
	}
}

// setAside: damage is neither trimmed nor forgotten, and the spool works on.
func setAside(t *testing.T, s *Spool, disk diskfs.FS, seal Sealer, what string) {
	t.Helper()
	if err := s.Forget(); !errors.Is(err, repo.ErrDamaged) || s.Held().Damage == nil {
		t.Errorf("Forget: %v", err)
	}
	must(t, s.Begin("c", 0))
	add(t, s, 100)
	before := len(names(t, disk))
	must(t, s.Trim("b", 1<<40))
	// What stands before the damage goes.
	want := map[string]int{"second file": 1, "a file is missing": 1, "the newest file": 2}[what]
	if gone := before - len(names(t, disk)); gone != want {
		t.Errorf("%d files trimmed, want %d", gone, want)
	}
	must(t, s.SetAside())
	if s.Held().Damage != nil {
		t.Error("damage after SetAside")
	}
	add(t, s, 100)
	must(t, s.Close())
	s = open(t, disk, seal, small())
	if got, err := replay(t, s); err != nil || !slices.Equal(got, []string{"c 0-200"}) {
		t.Errorf("at last: %q, %v", got, err)
	}
	aside := 0
	for name := range names(t, disk) {
		if strings.HasSuffix(name, suffixDamaged) {
			aside++
		}
	}
	if aside == 0 {
		t.Error("nothing was kept")
	}
}

// TestOtherKeys: another repository's spool is damage, not an empty spool.
func TestOtherKeys(t *testing.T) {
	disk := crashfs.New(1, nil)
	s := open(t, disk, lineage(t, true), small())
	fill(t, s, 2)
	must(t, s.Close())
	for _, encrypted := range []bool{true, false} {
		s = open(t, disk, lineage(t, encrypted), small())
		if _, err := replay(t, s); !errors.Is(err, repo.ErrDamaged) || len(s.files) != 2 {
			t.Errorf("%v, %d files", err, len(s.files))
		}
		must(t, s.Close())
	}
}

// TestRefused: a directory in use, and one that is somebody else's, which
// stays as it was.
func TestRefused(t *testing.T) {
	seal := lineage(t, true)
	disk := crashfs.New(1, nil)
	s := open(t, disk, seal, small())
	if _, err := Open(t.Context(), disk, "spool", seal, small()); !errors.Is(err, ErrInUse) || hferr.HintOf(err) == "" {
		t.Errorf("in use: %v", err)
	}
	must(t, s.Close())
	open(t, disk, seal, small())
	for _, name := range []string{"orders.sql", "pg-8.0000000000000001.spool", "pg-7.1.spool", "pg-7.000000000000000A.spool", "pg-7.0000000000000001.old"} {
		disk := crashfs.New(1, nil)
		h, err := disk.Create(name, 0o600)
		must(t, errors.Join(err, h.Close()))
		if _, err := Open(t.Context(), disk, "spool", seal, small()); !errors.Is(err, ErrForeign) || hferr.HintOf(err) == "" {
			t.Errorf("%s: %v", name, err)
		}
		if all := names(t, disk); len(all) != 1 || !all[name] {
			t.Errorf("left: %v", all)
		}
	}
	if _, err := Open(t.Context(), crashfs.New(1, nil), "spool", seal, Options{Limit: 1000}); hferr.KindOf(err) != hferr.Usage {
		t.Errorf("a limit of 1000: %v", err)
	}
}

// TestNoPlaintext: in an encrypted repository's spool, no log and no branch is
// in clear.
func TestNoPlaintext(t *testing.T) {
	disk := crashfs.New(1, nil)
	s := open(t, disk, lineage(t, true), small())
	must(t, s.Begin("secretbranch", 0))
	add(t, s, 300)
	add(t, s, 9000)
	must(t, s.Close())
	for name := range names(t, disk) {
		body := contents(t, disk, name)
		for _, clear := range []string{"secretbranch", "secr", "0000001 "} {
			if bytes.Contains(body, []byte(clear)) {
				t.Errorf("%s holds %q", name, clear)
			}
		}
	}
	if !bytes.Contains(text("secretbranch", 0, 300), []byte("0000001 ")) {
		t.Fatal("the log does not hold what was looked for")
	}
}

// TestOpenDir: the real thing, and a directory in memory.
func TestOpenDir(t *testing.T) {
	seal, dir := lineage(t, true), filepath.Join(t.TempDir(), "a", "spool")
	s, err := OpenDir(t.Context(), dir, seal, small())
	must(t, err)
	fill(t, s, 3)
	must(t, s.Trim("b", s.at.Pos-2000))
	must(t, s.Close())
	s, err = OpenDir(t.Context(), dir, seal, small())
	must(t, err)
	if got, err := replay(t, s); err != nil || len(got) != 1 || !strings.HasSuffix(got[0], "-11000") {
		t.Errorf("%q, %v", got, err)
	}
	must(t, s.Forget())
	if h := s.Held(); h.Bytes != 0 || len(h.Ranges) != 0 {
		t.Errorf("after Forget: %+v", h)
	}
	must(t, s.Close())
	_, err = OpenDir(t.Context(), dir, seal, Options{Limit: 1 << 60})
	if hferr.HintOf(err) == "" || !strings.Contains(err.Error(), "free") {
		t.Errorf("no room: %v", err)
	}
	if s, err = OpenDir(t.Context(), dir, seal, small()); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	must(t, s.Close())
}
