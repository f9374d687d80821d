package wal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"
)

// Bounds of a feed's server.
const (
	feedClients = 32               // connections answered at once
	helloWait   = 10 * time.Second // a client that has connected must ask within this
	frameWait   = time.Minute      // … and take each frame within this
)

// ServeFeed answers FetchFrom calls on a listener, one a connection, until
// ctx ends; it closes the listener and returns nil then, after its clients'
// connections have ended.
func ServeFeed(ctx context.Context, ln net.Listener, f Feed, log *slog.Logger) error {
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	defer func() { _ = ln.Close() }()
	var wg sync.WaitGroup
	defer wg.Wait()
	slots := make(chan struct{}, feedClients)
	for {
		conn, err := ln.Accept()
		switch {
		case ctx.Err() != nil:
			if err == nil {
				_ = conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("serve the log feed: %w", err)
		case err != nil: // out of file descriptors, a client gone again
			log.Warn("the log feed could not accept a connection", "err", err)
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			answer(ctx, conn, f, log)
		})
	}
}

// answer serves one connection.
func answer(ctx context.Context, conn net.Conn, f Feed, log *slog.Logger) {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(helloWait))
	name, err := readHello(conn)
	if err != nil {
		log.Warn("the log feed got no valid request", "err", err)
		_ = writeFrame(conn, frameFailed, []byte(err.Error()))
		return
	}
	w := &frameWriter{w: deadlineWriter{conn}}
	err = f.Fetch(ctx, name, w)
	if err == nil {
		err = w.flush()
	}
	kind, text := frameEnd, []byte(nil)
	switch {
	case errors.Is(err, ErrBeyondPlan) && !w.used:
		kind = frameBeyond
	case err != nil:
		log.Error("the log feed could not deliver", "name", name, "err", err)
		kind, text = frameFailed, []byte(err.Error())
	}
	if err := writeFrame(w.w, kind, text); err != nil {
		log.Warn("the log feed's client is gone", "name", name, "err", err)
	}
}

// deadlineWriter gives every write the same time.
type deadlineWriter struct{ net.Conn }

func (d deadlineWriter) Write(b []byte) (int, error) {
	_ = d.SetDeadline(time.Now().Add(frameWait))
	return d.Conn.Write(b)
}

// FetchFrom asks a ServeFeed behind conn for a name and writes it to w. It
// closes conn. ErrBeyondPlan as Feed has it; a connection cut at any point is
// an error, and what w got by then must be thrown away.
func FetchFrom(ctx context.Context, conn net.Conn, name string, w io.Writer) error {
	defer func() { _ = conn.Close() }()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	err := fetchFrames(conn, name, w)
	if ctx.Err() != nil && !errors.Is(err, ErrBeyondPlan) && err != nil {
		return ctx.Err()
	}
	return err
}

func fetchFrames(conn io.ReadWriter, name string, w io.Writer) error {
	if err := writeHello(conn, name); err != nil {
		return fmt.Errorf("ask the log feed for %s: %w", name, err)
	}
	started := false
	buf := make([]byte, 0, maxFrame)
	for {
		kind, payload, err := readFrame(conn, buf)
		if err != nil {
			return fmt.Errorf("receive %s from the log feed: %w", name, err)
		}
		switch kind {
		case frameData:
			started = true
			if _, err := w.Write(payload); err != nil {
				return err
			}
		case frameEnd:
			return nil
		case frameBeyond:
			if started {
				return fmt.Errorf("receive %s from the log feed: data before the answer that there is none", name)
			}
			return ErrBeyondPlan
		case frameFailed:
			return &FeedError{Name: name, Message: string(payload)}
		}
	}
}

// FeedError is a failure at the serving end.
type FeedError struct {
	Name    string
	Message string
}

func (e *FeedError) Error() string {
	return fmt.Sprintf("the log feed could not deliver %s: %s", e.Name, e.Message)
}
