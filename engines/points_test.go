package engines

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Marks: every record is a commit; those at multiples of fifty are restore
// points instead.
func (countingResolver) Marks(_ context.Context, rd *wal.Reader, from, to repo.Position, all bool, fn func(repo.Mark) error) error {
	if from < rd.Plan().From() || to > rd.Plan().To() {
		return fmt.Errorf("asked for %d to %d of %d to %d", from, to, rd.Plan().From(), rd.Plan().To())
	}
	for p := from + (recordSize-from%recordSize)%recordSize; p+recordSize <= to; p += recordSize {
		m := *commitAt(p)
		if p%50 == 0 {
			m.Kind, m.Name, m.ID = repo.MarkRestorePoint, fmt.Sprint(uint64(p)), ""
		} else if !all {
			continue
		}
		if err := fn(m); err != nil {
			return err
		}
	}
	return nil
}

func TestPoints(t *testing.T) {
	for _, c := range []struct {
		name  string
		setup func(*house)
		query PointQuery
		want  string // branch:name or branch:id
	}{
		{"one branch, two bases", plain, PointQuery{}, "b1:150 b1:200 b1:250 b1:300 b1:350 b1:400 b1:450"},
		{"a promotion, and what the old branch has beyond it", promoted, PointQuery{Since: at(390), Until: at(500)},
			"b1:400 b1:450 b2:400 b2:450"},
		{"two heirs", split, PointQuery{Since: at(440), Until: at(460)}, "b1:450 b2:450 b3:450"},
		{"commits", plain, PointQuery{Commits: true, Since: at(395), Until: at(410)}, "b1:395 b1:400 b1:405"},
		{"a gap, behind which no base serves", holed, PointQuery{Since: at(200)}, "b1:200 b1:250 b1:300"},
		{"nothing before the first base is consistent", plain, PointQuery{Commits: true, Until: at(130)}, "b1:120 b1:125"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHouse(t)
			c.setup(h)
			var got []string
			h.must(Points(t.Context(), counting{}, h.l, c.query, func(p ReachablePoint) error {
				if !slices.Contains([]string{h.ids["old"], h.ids["new"]}, p.Backup) {
					t.Errorf("by backup %q", p.Backup)
				}
				got = append(got, fmt.Sprintf("%s:%d", p.Branch, p.Start))
				return nil
			}))
			slices.Sort(got)
			if s := strings.Join(got, " "); s != c.want {
				t.Errorf("%s, want %s", s, c.want)
			}
		})
	}
}

func TestPointsOfABrokenListing(t *testing.T) {
	h := newHouse(t)
	plain(h)
	enough := errors.New("enough")
	if err := Points(t.Context(), counting{}, h.l, PointQuery{}, func(ReachablePoint) error { return enough }); !errors.Is(err, enough) {
		t.Errorf("fn's error became %v", err)
	}
	h.fail[h.ids["new"]] = true
	n := 0
	if err := Points(t.Context(), counting{}, h.l, PointQuery{}, func(ReachablePoint) error { n++; return nil }); err == nil || n != 7 {
		t.Errorf("with an unreadable manifest: %d points, %v", n, err)
	}
}
