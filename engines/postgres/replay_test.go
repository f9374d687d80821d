package postgres

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
)

const accounts = `create table accounts (id int primary key, note text)`

func TestReplayToTheEndOfTheLog(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts, "insert into accounts select i, repeat('x', 5000) from generate_series(1, 1000) i")
		r.backup()
		r.exec("insert into accounts select i, 'only in the log' from generate_series(1001, 50000) i", "select pg_switch_wal()",
			"insert into accounts values (50001, 'in the partial segment')")
		to := r.flushed()
		plan := r.planTo(to)
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select count(*) from accounts", "50001")
		out.want(t, "select note from accounts where id = 50001", "in the partial segment")
		if want := []string{"boot", "replay", "ready"}; !slices.Equal(out.phases, want) {
			t.Errorf("phases %v, want %v", out.phases, want)
		}
		at, last, err := out.copy.Reached(t.Context())
		if err != nil || at != to || last.IsZero() {
			t.Errorf("reached %s at %v, %v; want %s", FormatLSN(at), last, err, FormatLSN(to))
		}
	})
}

// The target is where the mistake's first record begins: it must stay out.
func TestReplayToATargetBringsADroppedTableBack(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts values (1, 'before')")
		target, when := r.flushed(), r.now()
		r.exec("drop table accounts", "create table later (i int)")
		plan := r.planTo(r.flushed())
		plan.Stop = &engines.Stop{At: target, Branch: rootBranch(1).ID}
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select string_agg(note, ',') from accounts", "before")
		out.want(t, "select count(*) from pg_class where relname = 'later'", "0")
		if _, last, _ := out.copy.Reached(t.Context()); last.IsZero() || !last.Before(when) {
			t.Errorf("last commit %v, target %v", last, when)
		}
	})
}

func TestATargetTheLogDoesNotReachIsAnError(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts values (1, 'last')")
		plan := r.planTo(r.flushed())
		plan.Stop = &engines.Stop{At: plan.Log.To(), Branch: rootBranch(1).ID}
		out, err := r.replay(plan, r.log(plan))
		if !errors.Is(err, ErrTargetNotReached) {
			t.Fatalf("error %v, want ErrTargetNotReached", err)
		}
		out.neverPromoted(t)
	})
}

// A hole and an outage look the same to the server: a file inside the plan
// that is not delivered. It must end there, not open.
func TestAHoleInTheLogNeverPromotes(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts values (1, 'before the hole')", "select pg_switch_wal()",
			"insert into accounts values (2, 'in the hole')", "select pg_switch_wal()", "insert into accounts values (3, 'behind it')")
		plan := r.planTo(r.flushed())
		log := r.log(plan)
		hole := r.man.LogFrom + 2*16<<20
		outage := errors.New("the store is out")
		log.spoil = func(_ string, at repo.Position, _ []byte) error {
			if at >= hole {
				return outage
			}
			return nil
		}
		out, err := r.replay(plan, log)
		if !errors.Is(err, ErrFeed) || !errors.Is(err, outage) {
			t.Fatalf("error %v, want ErrFeed with its cause", err)
		}
		if !strings.Contains(out.log.String(), logRedo) {
			t.Error("the replay had not begun: the hole was not met midway")
		}
		out.neverPromoted(t)
	})
}

// Damage that was in the log when it was archived passes our hashes; the
// server takes it for the end of the log.
func TestDamageInTheLogIsNotTakenForItsEnd(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts select i, 'x' from generate_series(1, 1000) i")
		bad := r.flushed()
		r.exec("insert into accounts select i, 'y' from generate_series(1001, 2000) i")
		plan := r.planTo(r.flushed())
		log := r.log(plan)
		log.spoil = func(_ string, at repo.Position, b []byte) error {
			if at <= bad && bad+64 < at+repo.Position(len(b)) {
				b[bad+60-at] ^= 1
			}
			return nil
		}
		if _, err := r.replay(plan, log); !errors.Is(err, ErrStoppedEarly) {
			t.Fatalf("error %v, want ErrStoppedEarly", err)
		}
	})
}

func TestReplayAcrossAPromotion(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts values (1, 'first timeline')")
		plan := r.planTo(r.flushed())
		first, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		// The copy goes on as a promoted standby would.
		second, err := first.copy.connect(t.Context(), "postgres")
		if err != nil {
			t.Fatal(err)
		}
		defer second.Close(t.Context())
		var end string
		for _, q := range []string{"insert into public.accounts values (2, 'second timeline')", "select pg_switch_wal()", "insert into public.accounts values (3, 'later')"} {
			if _, err := second.Exec(t.Context(), q); err != nil {
				t.Fatal(err)
			}
		}
		if err := second.QueryRow(t.Context(), "select pg_current_wal_flush_lsn()::text").Scan(&end); err != nil {
			t.Fatal(err)
		}
		to, _ := ParseLSN(end)
		wals := filepath.Join(first.dir, "pg_wal")
		path := branchesOf(t, filepath.Join(wals, historyName(2)))
		both := r.planTo(path[1].Fork)
		both.Log.Legs = append(both.Log.Legs, leg(path[1], path[1].Fork, to))
		log := r.log(both)
		log.dirs[path[1].ID] = wals
		out, err := r.replay(both, log)
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select string_agg(note, ',' order by id) from accounts", "first timeline,second timeline,later")
		out.want(t, "select timeline_id from pg_control_checkpoint()", "3")
	})
}

// Damage before the end of the archive is not taken for that end, though a
// plan that ends there sets no target.
func TestDamageBeforeAStopAtTheEnd(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts select i, 'x' from generate_series(1, 1000) i")
		bad := r.flushed()
		r.exec("insert into accounts select i, 'y' from generate_series(1001, 2000) i")
		plan := r.planTo(r.flushed())
		plan.Stop = &engines.Stop{At: plan.Log.To(), Branch: rootBranch(1).ID, AtEnd: true}
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select count(*) from accounts", "2000")
		log := r.log(plan)
		log.spoil = func(_ string, at repo.Position, b []byte) error {
			if at <= bad && bad+64 < at+repo.Position(len(b)) {
				b[bad+60-at] ^= 1
			}
			return nil
		}
		if _, err := r.replay(plan, log); !errors.Is(err, ErrStoppedEarly) {
			t.Fatalf("error %v, want ErrStoppedEarly", err)
		}
	})
}

func TestReplayAsSoonAsConsistent(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		r := newRig(t, major, accounts)
		r.backup()
		r.exec("insert into accounts values (1, 'after the backup')")
		plan := r.planTo(r.flushed())
		plan.Stop = &engines.Stop{At: r.man.Stop, Branch: rootBranch(1).ID, Consistent: true}
		out, err := r.replay(plan, r.log(plan))
		if err != nil {
			t.Fatal(err)
		}
		out.want(t, "select count(*) from accounts", "0")
		if at, _, err := out.copy.Reached(t.Context()); err != nil || at != r.man.Stop {
			t.Errorf("reached %s, %v; consistent at %s", FormatLSN(at), err, FormatLSN(r.man.Stop))
		}
	})
}
