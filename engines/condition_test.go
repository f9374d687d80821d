package engines

import (
	"errors"
	"fmt"
	"testing"

	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
)

func TestConditionOf(t *testing.T) {
	cause := errors.New("cause")
	lost := Classify(ConditionSlotLost, hferr.New("stream", cause, "do this"))
	for name, c := range map[string]struct {
		err  error
		want Condition
	}{
		"nil":                       {nil, ""},
		"plain":                     {cause, ""},
		"classified":                {lost, ConditionSlotLost},
		"wrapped":                   {fmt.Errorf("outer: %w", Permanent(lost)), ConditionSlotLost},
		"the first one stays":       {Classify(ConditionStalled, lost), ConditionSlotLost},
		"no condition":              {Classify("", cause), ""},
		"nil stays nil":             {Classify(ConditionStalled, nil), ""},
		"another history's archive": {fmt.Errorf("store: %w", repo.ErrFork), ConditionOtherHistory},
	} {
		if got := ConditionOf(c.err); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
	if !errors.Is(lost, cause) || hferr.HintOf(lost) != "do this" || lost.Error() != "stream: cause" || IsPermanent(lost) {
		t.Errorf("%v", lost)
	}
	if !IsPermanent(Classify(ConditionSlotLost, Permanent(cause))) {
		t.Error("no longer permanent")
	}
}
