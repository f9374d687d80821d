package hferr

import (
	"errors"
	"fmt"
	"testing"
)

func TestChain(t *testing.T) {
	cause := errors.New("refused")
	inner := New("connect", cause, "start it")
	outer := fmt.Errorf("backup: %w", NewUsage("orders", inner, ""))
	if outer.Error() != "backup: orders: connect: refused" {
		t.Errorf("text %q", outer)
	}
	if !errors.Is(outer, cause) {
		t.Error("the cause is lost")
	}
	if HintOf(outer) != "start it" || KindOf(outer) != Usage {
		t.Errorf("hint %q, kind %v", HintOf(outer), KindOf(outer))
	}
	if HintOf(cause) != "" || KindOf(cause) != Failed || HintOf(nil) != "" {
		t.Error("a plain error has a hint or a kind")
	}
}
