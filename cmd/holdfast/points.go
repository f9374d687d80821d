package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// pointFlags bound `list DB --points`.
type pointFlags struct {
	points  bool
	commits bool
	since   string
	until   string
}

func (fl pointFlags) query() (q engines.PointQuery, err error) {
	q.Commits = fl.commits
	if q.Since, err = parseTime(fl.since); err == nil {
		q.Until, err = parseTime(fl.until)
	}
	return q, err
}

// check refuses bounds of a listing that was not asked for.
func (fl pointFlags) check(named bool) error {
	switch {
	case (fl.commits || fl.since != "" || fl.until != "") && !fl.points:
		return hferr.NewUsage("list", errors.New("--commits, --since and --until bound the list of points"), "add --points")
	case fl.points && !named:
		return hferr.NewUsage("list --points", errors.New("of which database?"), "name one: holdfast list DB --points")
	}
	return nil
}

// windowDoc is one recovery window, positions as the engine prints them.
type windowDoc struct {
	engines.Window
	FromPos string `json:"from_position"`
	ToPos   string `json:"to_position,omitempty"`
}

// pointsDoc is the JSON document of `list DB --points`.
type pointsDoc struct {
	Lineage  repo.LineageInfo `json:"lineage"`
	Windows  []windowDoc      `json:"windows"`
	Points   []markDoc        `json:"points"`
	Problems []string         `json:"problems,omitempty"`
}

func (a *app) listPoints(ctx context.Context, l *repo.Lineage, fl pointFlags) error {
	q, err := fl.query()
	if err != nil {
		return err
	}
	e, err := engineByName(l.Info().Engine)
	if err != nil {
		return err
	}
	pos := e.Restorer().FormatPosition
	doc := pointsDoc{Lineage: l.Info(), Windows: []windowDoc{}, Points: []markDoc{}}
	windows, err := engines.Windows(ctx, l)
	for _, w := range windows {
		d := windowDoc{Window: w, FromPos: pos(w.FromPos)}
		if !w.To.IsZero() {
			d.ToPos = pos(w.ToPos)
		}
		doc.Windows = append(doc.Windows, d)
	}
	if err != nil {
		doc.Problems = append(doc.Problems, err.Error())
	}
	if !a.json() {
		if err := a.printWindows(doc); err != nil {
			return err
		}
	}
	err = engines.Points(ctx, e, l, q, func(p engines.ReachablePoint) error {
		d := newMarkDoc(&p.Mark, pos)
		d.Branch, d.Backup = p.Branch, p.Backup
		if a.json() {
			doc.Points = append(doc.Points, *d)
			return nil
		}
		// A line at a time: there may be millions.
		a.printf("%-27s  %-13s  %-12s  %-20s  %-12s  %-12s  %s\n", textTime(d.Time), d.Kind, d.ID, d.Name, d.Start, d.End, d.Branch)
		return nil
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil && (len(doc.Problems) == 0 || doc.Problems[0] != err.Error()) {
		doc.Problems = append(doc.Problems, err.Error())
	}
	if a.json() {
		err = a.printJSON(doc)
	} else {
		for _, p := range doc.Problems {
			a.printf("problem: %s\n", p)
		}
		err = nil
	}
	if err == nil && len(doc.Problems) > 0 {
		return codeError(exitFailed)
	}
	return err
}

func (a *app) printWindows(doc pointsDoc) error {
	a.printf("%s  (%s)\n\n", doc.Lineage.Database, doc.Lineage.ID)
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "ANY TIME AFTER\tAND BEFORE\tPOSITIONS FROM\tTHROUGH\tBY BACKUP\tON BRANCH\t")
	for _, v := range doc.Windows {
		through := "nothing"
		if !v.To.IsZero() {
			through = stampTime(v.To)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", stampTime(v.From), through, v.FromPos, v.ToPos, v.Backup, v.Branch, v.Problem)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	a.printf("\n%-27s  %-13s  %-12s  %-20s  %-12s  %-12s  %s\n", "TIME", "WHAT", "TRANSACTION", "NAME", "BEGINS", "ENDS", "BRANCH")
	return nil
}

func textTime(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return stampTime(t)
}
