package enginetest

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// dbCopy implements engines.Copy.
type dbCopy struct {
	faults  *Faults
	proc    testcontainers.Process
	data    tables
	reached repo.Position
	last    time.Time
}

func (c *dbCopy) Reached(ctx context.Context) (repo.Position, time.Time, error) {
	return c.reached, c.last, ctx.Err()
}

func (c *dbCopy) Beats(ctx context.Context) ([]repo.Beat, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return parseBeats(c.data[beatTable])
}

func (c *dbCopy) ReadAll(ctx context.Context) (engines.ReadStats, error) {
	if err := ctx.Err(); err != nil {
		return engines.ReadStats{}, err
	}
	if c.faults.Reads != nil {
		return engines.ReadStats{}, c.faults.Reads
	}
	st := engines.ReadStats{Databases: 1, Tables: len(c.data)}
	for _, rows := range c.data {
		st.Rows += int64(len(rows))
		for k, v := range rows {
			st.Bytes += int64(len(k) + len(v))
		}
	}
	return st, nil
}

// Integrity checks each table: here only the damage asked for can be found.
func (c *dbCopy) Integrity(ctx context.Context) ([]engines.CheckResult, error) {
	var out []engines.CheckResult
	for name := range c.data {
		r := engines.CheckResult{ID: "structure:" + name, Tier: "integrity", Expected: "0 damaged", Actual: "0 damaged", Verdict: "pass"}
		if name == c.faults.Damage {
			r.Actual, r.Verdict = "1 damaged", "fail"
		}
		out = append(out, r)
	}
	return out, ctx.Err()
}

// Query knows "count TABLE", "get TABLE KEY" and "has TABLE".
func (c *dbCopy) Query(ctx context.Context, database, query string) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", err
	}
	words := strings.Fields(query)
	switch {
	case len(words) == 2 && words[0] == "count":
		return fmt.Sprint(len(c.data[words[1]])), nil
	case len(words) == 2 && words[0] == "has":
		_, ok := c.data[words[1]]
		return fmt.Sprint(ok), nil
	case len(words) == 3 && words[0] == "get":
		return c.data[words[1]][words[2]], nil
	}
	return "", fmt.Errorf("syntax error in %q", query)
}

func (c *dbCopy) Version() string {
	if c.faults.Version != "" {
		return c.faults.Version
	}
	return Version
}

// Close stops the copy's process. Idempotent.
func (c *dbCopy) Close(ctx context.Context) error {
	if c.proc == nil {
		return nil
	}
	if err := c.proc.Signal(ctx, int(syscall.SIGINT)); err != nil {
		return err
	}
	err := c.proc.Wait(ctx)
	c.proc = nil
	return err
}
