package secret

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestTextNeverPrints(t *testing.T) {
	const value = "hunter2-distinctive"
	s := New(value)
	holder := struct {
		S Text
		P *Text
	}{s, &s}
	var logs bytes.Buffer
	slog.New(slog.NewJSONHandler(&logs, nil)).Info("x", "s", s, "h", holder)
	slog.New(slog.NewTextHandler(&logs, nil)).Info("x", "s", s, "p", &s)
	doc, err := json.Marshal(holder)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q", s, holder, holder, s, s), logs.String(), string(doc), fmt.Errorf("x: %v", s).Error()} {
		if strings.Contains(text, value) {
			t.Errorf("the secret is in %q", text)
		}
	}
	if s.Reveal() != value || s.Empty() || !(Text{}).Empty() {
		t.Error("Reveal or Empty is wrong")
	}
}
