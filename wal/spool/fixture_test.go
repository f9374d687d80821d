package spool

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/memstore"
	"github.com/holdfastdb/holdfast/internal/diskfs"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
)

var epoch = time.Date(2026, 11, 24, 12, 0, 0, 0, time.UTC)

// lineage makes a repository in memory with one lineage.
func lineage(t testing.TB, encrypted bool) *repo.Lineage {
	t.Helper()
	o := repo.InitOptions{Tool: "test", Unencrypted: !encrypted, ScryptWork: 10}
	if encrypted {
		o.Passphrase = secret.New("correct horse")
	}
	r, _, err := repo.Init(context.Background(), memstore.New(time.Now), o)
	if err != nil {
		t.Fatal(err)
	}
	l, err := r.EnsureLineage(context.Background(), repo.LineageInfo{ID: "pg-7", Engine: "postgres", Database: "orders"})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// text is the log of a branch from at on: the same whoever sends it.
func text(branch string, at Position, n int) []byte {
	var b bytes.Buffer
	for p := at / 16; b.Len() < n+16; p++ {
		fmt.Fprintf(&b, "%-4.4s%011x ", branch, uint64(p))
	}
	return b.Bytes()[at%16:][:n]
}

func small() Options { return Options{Limit: 256 << 10, FileBytes: 8 << 10} }

// manyFrames is small with frames so small that a sync often writes several.
func manyFrames() Options {
	o := small()
	o.frame = 1300
	return o
}

func open(t testing.TB, fsys diskfs.FS, seal Sealer, o Options) *Spool {
	t.Helper()
	s, err := Open(context.Background(), fsys, "spool", seal, o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// add appends n bytes of the branch's log, and syncs.
func add(t testing.TB, s *Spool, n int) {
	t.Helper()
	must(t, s.Append(s.at.Pos, text(s.at.Branch, s.at.Pos, n), epoch.Add(time.Duration(s.taken)*time.Second)))
	if p, err := s.Sync(); err != nil || p != s.at {
		t.Fatalf("synced to %v, %v", p, err)
	}
}

// kill ends a spool as a killed process would: only the lock is gone.
func kill(s *Spool) { _ = s.unlock() }

// replay returns what the spool gives, joined, as "branch from-to" and "beat n".
func replay(t testing.TB, s *Spool) (got []string, err error) {
	t.Helper()
	var r Range
	end := func() {
		if r.End > r.Start {
			got = append(got, fmt.Sprintf("%s %d-%d", r.Branch, r.Start, r.End))
		}
		r = Range{}
	}
	err = s.Replay(t.Context(), func(p Piece) error {
		if p.Beat != nil {
			end()
			got = append(got, fmt.Sprintf("beat %d", p.Beat.N))
			return nil
		}
		if !bytes.Equal(p.Data, text(p.Branch, p.At, len(p.Data))) {
			return errors.New("other bytes than were appended")
		}
		if r.Branch != p.Branch || r.End != p.At {
			end()
			r = Range{p.Branch, p.At, p.At}
		}
		r.End += Position(len(p.Data))
		return nil
	})
	end()
	return got, err
}

func names(t testing.TB, fsys diskfs.FS) map[string]bool {
	t.Helper()
	all, err := dirNames(fsys)
	must(t, err)
	return all
}

// faulty lets a test fail the operations of a process on its disk.
type faulty struct {
	diskfs.FS
	fail func(op string) error // before the operation
}

func (f *faulty) Create(name string, perm fs.FileMode) (diskfs.File, error) {
	if err := f.fail("create"); err != nil {
		return nil, err
	}
	h, err := f.FS.Create(name, perm)
	if err != nil {
		return nil, err
	}
	return &faultyFile{h, f}, nil
}

func (f *faulty) Open(name string) (diskfs.File, error) {
	h, err := f.FS.Open(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{h, f}, nil
}

func (f *faulty) Rename(oldname, newname string) error {
	if err := f.fail("rename"); err != nil {
		return err
	}
	return f.FS.Rename(oldname, newname)
}

func (f *faulty) Unlink(name string) error {
	if err := f.fail("unlink"); err != nil {
		return err
	}
	return f.FS.Unlink(name)
}

func (f *faulty) SyncDir(name string) error {
	if err := f.fail("syncdir"); err != nil {
		return err
	}
	return f.FS.SyncDir(name)
}

type faultyFile struct {
	diskfs.File
	f *faulty
}

func (f *faultyFile) Datasync() error {
	if err := f.f.fail("datasync"); err != nil {
		return err
	}
	return f.File.Datasync()
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.f.fail("write"); err != nil {
		return 0, err
	}
	return f.File.WriteAt(p, off)
}
