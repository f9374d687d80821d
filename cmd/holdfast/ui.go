package main

import (
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/dustin/go-humanize"
	"github.com/holdfastdb/holdfast/stream"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// progress shows a transfer: a bar with rate and ETA on a terminal, a plain
// line every few seconds elsewhere, nothing with --output json.
type progress struct {
	a     *app
	title string
	meter *stream.Meter

	mu    sync.Mutex
	stage string
	quit  chan struct{}
	done  sync.WaitGroup
}

const (
	barEvery  = 200 * time.Millisecond
	lineEvery = 10 * time.Second
)

func (a *app) newProgress(title string) *progress {
	return &progress{a: a, title: title, meter: stream.NewMeter(a.clock), quit: make(chan struct{})}
}

// phase names what the job is doing now.
func (p *progress) phase(name string) {
	p.a.log.Info(p.title, "phase", name)
	p.mu.Lock()
	p.stage = name
	p.mu.Unlock()
}

func (p *progress) current() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stage
}

func (p *progress) start() {
	switch {
	case p.a.json():
	case terminal(p.a.err):
		p.done.Go(p.bar)
	default:
		p.done.Go(p.lines)
	}
}

// stop ends the display; it is safe to print afterwards.
func (p *progress) stop() {
	close(p.quit)
	p.done.Wait()
}

func (p *progress) bar() {
	out := mpb.New(mpb.WithOutput(p.a.err), mpb.WithWidth(40), mpb.WithAutoRefresh())
	var s stream.Snapshot
	var mu sync.Mutex
	get := func() stream.Snapshot { mu.Lock(); defer mu.Unlock(); return s }
	b := out.New(0, mpb.BarStyle().Rbound("|"),
		mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return fmt.Sprintf("%s [%s] ", p.title, p.current()) })),
		mpb.AppendDecorators(decor.Any(func(decor.Statistics) string { return " " + describe(get()) })))
	t := time.NewTicker(barEvery)
	defer t.Stop()
	for {
		select {
		case <-p.quit:
			b.Abort(true)
			out.Wait()
			return
		case <-t.C:
			mu.Lock()
			s = p.meter.Snapshot()
			mu.Unlock()
			// The total is an estimate: a bar is never full before the end.
			b.SetTotal(max(s.Total, s.Read)+1, false)
			b.SetCurrent(s.Read)
		}
	}
}

func (p *progress) lines() {
	t := time.NewTicker(lineEvery)
	defer t.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-t.C:
			fmt.Fprintf(p.a.err, "%s [%s] %s\n", p.title, p.current(), describe(p.meter.Snapshot()))
		}
	}
}

// describe is "412 MiB of 1.2 GiB, 210 MiB/s, 4s left".
func describe(s stream.Snapshot) string {
	text := size(s.Read)
	if s.Total > 0 {
		text += " of " + size(s.Total)
	}
	if s.Rate >= 1 {
		text += ", " + size(int64(s.Rate)) + "/s"
	}
	if s.ETA > 0 {
		text += ", " + round(s.ETA).String() + " left"
	}
	return text
}

func size(n int64) string { return humanize.IBytes(uint64(max(n, 0))) }

// round shortens a duration to what a person reads.
func round(d time.Duration) time.Duration {
	switch {
	case d > time.Minute:
		return d.Round(time.Second)
	case d > time.Second:
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}

// ago says how long before now a time was.
func (a *app) ago(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return round(a.clock().Sub(t)).String() + " ago"
}

// printJSONLine writes one object on one line.
func (a *app) printJSONLine(v any) {
	if b, err := json.Marshal(v); err == nil {
		a.printf("%s\n", b)
	}
}
