package repo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

// PutBranch records a branch (F23, create-only). An equal record counts as
// success, whenever it was recorded; a different one is ErrFork.
func (l *Lineage) PutBranch(ctx context.Context, b Branch) error {
	if err := l.writable(); err != nil {
		return err
	}
	if err := checkName("branch", b.ID); err != nil {
		return err
	}
	b.Recorded = cmp.Or(b.Recorded, l.o.Clock()).UTC()
	key := branchKey(l.keys.lineage, b.ID)
	body, err := l.keys.sealDocument(typeBranch, key, b, nil)
	if err != nil {
		return err
	}
	return create(ctx, l.st, key, body, func(existing []byte) error {
		was, err := l.openBranch(existing, b.ID)
		if err != nil {
			return err
		}
		if !sameBranch(was, b) {
			return hferr.New("record branch "+b.ID,
				fmt.Errorf("%w: recorded with parent %q forking at %s, now %q at %s", ErrFork, was.Parent, was.Fork.Key(), b.Parent, b.Fork.Key()),
				"two servers claim this branch: find out which one is the clone, and give it a repository of its own")
		}
		return nil
	})
}

// sameBranch compares all but the time of recording. Absent and empty proofs
// are the same.
func sameBranch(a, b Branch) bool {
	a.Recorded, b.Recorded = time.Time{}, time.Time{}
	if len(a.Proof) == 0 && len(b.Proof) == 0 {
		a.Proof, b.Proof = nil, nil
	}
	return sameJSON(a, b)
}

func (l *Lineage) openBranch(body []byte, id string) (Branch, error) {
	var b Branch
	key := branchKey(l.keys.lineage, id)
	if err := l.keys.openDocument(body, typeBranch, key, &b, nil); err != nil {
		return b, err
	}
	if b.ID != id {
		return b, fmt.Errorf("%s: %w: it calls itself %q", key, ErrDamaged, b.ID)
	}
	return b, nil
}

// Branches lists all branches, ordered by number, then id. One that cannot be
// read is in the error; the others are returned all the same.
func (l *Lineage) Branches(ctx context.Context) ([]Branch, error) {
	var out []Branch
	err := l.eachDocument(ctx, branchPrefix(l.keys.lineage), func(id string, body []byte) error {
		b, err := l.openBranch(body, id)
		if err == nil {
			out = append(out, b)
		}
		return err
	})
	slices.SortFunc(out, func(a, b Branch) int {
		return cmp.Or(cmp.Compare(a.Number, b.Number), cmp.Compare(a.ID, b.ID))
	})
	return out, err
}

// eachDocument reads every <id>.json directly under prefix in order of id.
// Errors of single documents are joined; the others are visited all the same.
func (l *Lineage) eachDocument(ctx context.Context, prefix string, fn func(id string, body []byte) error) error {
	var ids []string
	err := l.st.List(ctx, prefix, blob.ListOptions{}, func(o blob.Object) error {
		id, ok := strings.CutSuffix(strings.TrimPrefix(o.Key, prefix), ".json")
		if !ok {
			return fmt.Errorf("%s: %w: not a document's key", o.Key, ErrDamaged)
		}
		ids = append(ids, id)
		return nil
	})
	if err != nil {
		return fmt.Errorf("list %s: %w", prefix, err)
	}
	var errs error
	for _, id := range ids {
		body, err := readAll(ctx, l.st, prefix+id+".json")
		if err == nil {
			err = fn(id, body)
		}
		if err != nil && ctx.Err() != nil {
			return err
		}
		errs = errors.Join(errs, err)
	}
	return errs
}
