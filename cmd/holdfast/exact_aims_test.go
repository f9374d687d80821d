package main

import (
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/holdfastdb/holdfast/engines/postgres"
	"github.com/holdfastdb/holdfast/internal/repo"
)

// aim is a target as a user names it, and what the source's own log says that
// it means: the copy holds what commits in records that begin before at.
type aim struct {
	flag, value string
	at          repo.Position
}

func (a aim) String() string { return a.flag + " " + a.value }

func (a aim) args() []string { return []string{a.flag, a.value} }

func (a aim) flags() targetFlags {
	fl := targetFlags{target: targetLatest}
	into := map[string]*string{"--target": &fl.target, "--target-time": &fl.time, "--target-lsn": &fl.lsn,
		"--target-xid": &fl.xid, "--target-name": &fl.name, "--before": &fl.before}
	*into[a.flag] = a.value
	return fl
}

func atTime(t time.Time, at repo.Position) aim {
	return aim{"--target-time", t.Format(time.RFC3339Nano), at}
}

func atPosition(p repo.Position) aim { return aim{"--target-lsn", postgres.FormatLSN(p), p} }

func through(p place) aim { return aim{"--target-xid", fmt.Sprint(p.xid), p.start + 1} }

func justBefore(p place) aim { return aim{"--before", fmt.Sprint(p.xid), p.start} }

func named(p place) aim { return aim{"--target-name", p.name, p.start + 1} }

// since leaves out what a base does not reach: places before its consistent
// point, and times that its clock had already passed.
func since(places []place, base *repo.Manifest) []place {
	var out []place
	for _, p := range places {
		if p.start > base.Stop && (p.at.IsZero() || p.at.After(base.StopTime)) {
			out = append(out, p)
		}
	}
	return out
}

func oneOf[T any](rng *rand.Rand, of []T) T { return of[rng.IntN(len(of))] }

// aims draws n random targets, as many of each kind.
func (tr *truth) aims(rng *rand.Rand, base *repo.Manifest, n int) []aim {
	records, ends := since(tr.records, base), since(tr.ends, base)
	var commits, points []place
	for _, p := range ends {
		if p.kind == repo.MarkCommit {
			commits = append(commits, p)
		}
	}
	for _, p := range since(tr.points, base) {
		if p.name != "twice" {
			points = append(points, p)
		}
	}
	var out []aim
	for len(out) < n {
		switch len(out) % 5 {
		case 0:
			t := oneOf(rng, commits).at.Add(time.Duration(rng.IntN(3)-1) * time.Microsecond)
			if at := tr.firstAt(base.Stop, t); at != 0 {
				out = append(out, atTime(t, at))
			}
		case 1:
			r := oneOf(rng, records[:len(records)-1])
			out = append(out, atPosition(oneOf(rng, []repo.Position{r.start, r.start + 1, r.start + (r.end-r.start)/2, r.end})))
		case 2:
			out = append(out, through(oneOf(rng, ends)))
		case 3:
			p := oneOf(rng, commits)
			if a := justBefore(p); rng.IntN(2) == 0 {
				out = append(out, a)
			} else {
				out = append(out, aim{"--before", postgres.FormatLSN(p.start + repo.Position(rng.IntN(24))), p.start})
			}
		default:
			out = append(out, named(oneOf(rng, points)))
		}
	}
	return out
}
