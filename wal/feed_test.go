package wal

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
)

// serve answers from f on a socket of its own and returns a dialler.
func serve(t *testing.T, f Feed) func() net.Conn {
	t.Helper()
	addr := filepath.Join(t.TempDir(), "feed")
	ln, err := net.Listen("unix", addr)
	must(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- ServeFeed(ctx, ln, f, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ServeFeed: %v", err)
		}
	})
	return func() net.Conn {
		conn, err := net.Dial("unix", addr)
		must(t, err)
		return conn
	}
}

var errFeed = errors.New("the store is gone")

func testFeed() copyFeed {
	f := copyFeed{
		"empty": func(context.Context, io.Writer) error { return nil },
		"fails": func(context.Context, io.Writer) error { return errFeed },
		"half": func(_ context.Context, w io.Writer) error {
			_, err := w.Write(make([]byte, 3*maxFrame+1))
			return errors.Join(err, errFeed)
		},
		// A feed that breaks its contract must not end a recovery.
		"half then beyond": func(_ context.Context, w io.Writer) error {
			_, err := w.Write([]byte("x"))
			return errors.Join(err, ErrBeyondPlan)
		},
		"hangs": func(ctx context.Context, _ io.Writer) error { <-ctx.Done(); return ctx.Err() },
	}
	for i := range 20 {
		f[fmt.Sprintf("file%d", i)] = func(_ context.Context, w io.Writer) error {
			for p := Position(0); p < 400_000; p += 50_000 {
				if _, err := w.Write(logBytes(fmt.Sprint(i), p, p+50_000)); err != nil {
					return err
				}
			}
			return nil
		}
	}
	return f
}

func TestFeed(t *testing.T) {
	dial := serve(t, testFeed())
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			var buf bytes.Buffer
			if err := FetchFrom(t.Context(), dial(), fmt.Sprintf("file%d", i), &buf); err != nil {
				t.Error(err)
			}
			if !bytes.Equal(buf.Bytes(), logBytes(fmt.Sprint(i), 0, 400_000)) {
				t.Errorf("file %d arrived changed", i)
			}
		})
	}
	wg.Wait()
	must(t, FetchFrom(t.Context(), dial(), "empty", io.Discard))
	if err := FetchFrom(t.Context(), dial(), "elsewhere", io.Discard); !errors.Is(err, ErrBeyondPlan) {
		t.Errorf("a name outside the plan: %v", err)
	}
	for _, name := range []string{"fails", "half", "half then beyond"} {
		err := FetchFrom(t.Context(), dial(), name, io.Discard)
		if feed := new(FeedError); !errors.As(err, &feed) || errors.Is(err, ErrBeyondPlan) {
			t.Errorf("%s: %v", name, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	conn := dial()
	go cancel()
	if err := FetchFrom(ctx, conn, "hangs", io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled fetch: %v", err)
	}
	for _, name := range []string{"", string(make([]byte, 256))} {
		if err := FetchFrom(t.Context(), dial(), name, io.Discard); err == nil {
			t.Errorf("a name of %d bytes was accepted", len(name))
		}
	}
}

// TestCutAnywhere: whatever number of bytes arrives before the connection
// ends, only the whole answer counts as one.
func TestCutAnywhere(t *testing.T) {
	var whole bytes.Buffer
	w := &frameWriter{w: &whole}
	_, err := w.Write([]byte("some log"))
	must(t, err)
	must(t, w.flush())
	must(t, writeFrame(&whole, frameEnd, nil))
	for n := range whole.Len() + 1 {
		var got bytes.Buffer
		err := fetchFrames(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(whole.Bytes()[:n]), io.Discard}, "name", &got)
		switch complete := n == whole.Len(); {
		case complete && (err != nil || got.String() != "some log"):
			t.Errorf("the whole answer: %q, %v", got.String(), err)
		case !complete && !errors.Is(err, io.ErrUnexpectedEOF):
			t.Errorf("cut after %d bytes: %v", n, err)
		}
	}
}

func TestFetchToFile(t *testing.T) {
	dir := t.TempDir()
	dst := filepath.Join(dir, "000000010000000000000001")
	for _, failure := range []error{ErrBeyondPlan, errFeed} {
		err := FetchToFile(t.Context(), func(_ context.Context, w io.Writer) error {
			_, err := io.WriteString(w, "half")
			return errors.Join(err, failure)
		}, dst)
		left, _ := os.ReadDir(dir)
		if !errors.Is(err, failure) || len(left) != 0 {
			t.Fatalf("%v, left behind: %v", err, left)
		}
	}
	must(t, FetchToFile(t.Context(), func(_ context.Context, w io.Writer) error {
		if _, err := os.Stat(dst); err == nil {
			t.Error("the file is in place before it is complete")
		}
		_, err := io.WriteString(w, "whole")
		return err
	}, dst))
	got, err := os.ReadFile(dst)
	left, _ := os.ReadDir(dir)
	if err != nil || string(got) != "whole" || len(left) != 1 {
		t.Fatalf("%q, %v, in the directory: %v", got, err, left)
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte("D\x00\x00\x00\x02abE\x00\x00\x00\x00"))
	f.Add([]byte("B\x00\x00\x00\x00"))
	f.Add([]byte("F\x00\x00\x00\x01x"))
	f.Add([]byte("D\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var got bytes.Buffer
		err := fetchFrames(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(in), io.Discard}, "name", &got)
		if errors.Is(err, ErrBeyondPlan) && got.Len() > 0 {
			t.Fatal("data and then none")
		}
		if err == nil && !bytes.Contains(in, []byte("E\x00\x00\x00\x00")) {
			t.Fatal("complete without an end")
		}
		if got.Len() > len(in) {
			t.Fatal("more out than in")
		}
	})
}

func FuzzHello(f *testing.F) {
	var hello bytes.Buffer
	_ = writeHello(&hello, "00000001.history")
	f.Add(hello.Bytes())
	f.Add([]byte("HFFEED\x02\x01x"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		name, err := readHello(bytes.NewReader(in))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := writeHello(&again, name); err != nil || !bytes.HasPrefix(in, again.Bytes()) {
			t.Fatalf("%q does not come back: %v", name, err)
		}
	})
}
