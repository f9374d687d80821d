package wal_test

import (
	"bytes"
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob/faulty"
	"github.com/holdfastdb/holdfast/internal/blob/file"
	"github.com/holdfastdb/holdfast/internal/diskfs/crashfs"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
	"github.com/holdfastdb/holdfast/wal/spool"
)

// While the store is away, a spool takes everything up to its own limit,
// however much more that is than may wait in memory: commits wait for it.
func TestASpoolTakesWhatMemoryDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var away atomic.Bool
		st := faulty.Wrap(file.New(crashfs.New(1, nil), "memory", file.Options{}), func(c faulty.Call) faulty.Fault {
			if away.Load() && c.Op == faulty.Create {
				return faulty.Fault{Kind: faulty.Full}
			}
			return faulty.Fault{}
		})
		r, _, err := repo.Init(t.Context(), st, repo.InitOptions{Unencrypted: true})
		if err != nil {
			t.Fatal(err)
		}
		l, err := r.EnsureLineage(t.Context(), repo.LineageInfo{ID: "pg-1", Engine: "fake", Database: "db"})
		if err != nil {
			t.Fatal(err)
		}
		s, err := spool.Open(t.Context(), crashfs.New(2, nil), "crashfs", l, spool.Options{Limit: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		a := wal.NewArchiver(l, wal.ArchiverOptions{MaxSegment: 1000, MaxPending: 4000, Spool: s})
		defer func() { _ = a.Close(t.Context(), "shutdown") }()
		if err := a.Begin(t.Context(), repo.Branch{ID: "b1", Number: 1}, 0, nil); err != nil {
			t.Fatal(err)
		}
		away.Store(true)
		const chunk, chunks = 130, 500
		want := make([]byte, 0, chunk*chunks)
		for n := range chunks {
			data := bytes.Repeat([]byte{byte(n)}, chunk)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			if err := a.Write(ctx, wal.Chunk{Pos: wal.Position(len(want)), Data: data}); err != nil {
				t.Fatalf("write of chunk %d while the store is away: %v", n, err)
			}
			cancel()
			want = append(want, data...)
		}
		synctest.Wait()
		if d, stored := a.Durable(), a.Stored(); d != chunk*chunks || stored != 0 {
			t.Fatalf("durable through %d, stored through %d, want %d and 0", d, stored, chunk*chunks)
		}
		away.Store(false)
		if err := errors.Join(a.Flush(t.Context()), a.Close(t.Context(), "shutdown"), s.Close()); err != nil {
			t.Fatal(err)
		}
		p, err := wal.MakePlan(t.Context(), l, "b1", 0, "b1", chunk*chunks)
		if err != nil {
			t.Fatal(err)
		}
		rd, err := wal.NewReader(t.Context(), l, p)
		if err != nil {
			t.Fatal(err)
		}
		defer rd.Close()
		var got bytes.Buffer
		if err := rd.Copy(t.Context(), "b1", 0, chunk*chunks, &got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Error("the store holds other bytes than were written")
		}
	})
}
