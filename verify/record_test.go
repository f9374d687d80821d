package verify_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/verify"
)

func readRecord(t *testing.T, dir, id string) []byte {
	t.Helper()
	body, err := os.ReadFile(filepath.Join(dir, id+".json"))
	if err != nil {
		t.Fatal(err)
	}
	return body
}

// Records form a chain of hashes, and the local copy is the stored bytes.
func TestRecordsAreChained(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	q := l.request()
	q.RecordDir = filepath.Join(t.TempDir(), "new")
	prev := ""
	for range 3 {
		r := l.drill(q)
		if r.PrevRecordSHA256 != prev {
			t.Errorf("previous record %q, want %q", r.PrevRecordSHA256, prev)
		}
		body := readRecord(t, q.RecordDir, r.ID)
		records, err := l.lineage.Records(t.Context())
		l.must(err)
		if stored := records[len(records)-1].Body; string(stored) != string(body) {
			t.Fatalf("stored %s\nlocal %s", stored, body)
		}
		sum := sha256.Sum256(body)
		prev = hex.EncodeToString(sum[:])
		var back verify.Record
		if err := json.Unmarshal(body, &back); err != nil || back.Schema != verify.RecordSchema || back.Verdict != r.Verdict {
			t.Errorf("%v: %+v", err, back)
		}
	}
	if entries, err := os.ReadDir(q.RecordDir); err != nil || len(entries) != 3 {
		t.Errorf("%d files (%v)", len(entries), err)
	}
}

func TestPhasesAndRTO(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	q := l.request()
	var live []string
	q.Progress = func(e verify.PhaseEvent) {
		if e.Done && !e.Failed {
			live = append(live, e.Phase)
		}
	}
	q.Started = time.Now().Add(-3 * time.Second)
	r := l.drill(q)
	var names []string
	var sum int64
	for _, p := range r.Phases {
		names = append(names, p.Name)
		if p.RTO {
			sum += p.Took
		}
		if p.Result != "done" {
			t.Errorf("phase %+v", p)
		}
	}
	want := "open observe plan expect provision fetch boot replay ready check check/heartbeat check/read check/integrity check/user teardown"
	if got := strings.Join(names, " "); got != want {
		t.Errorf("phases %s", got)
	}
	slices.Sort(live)
	slices.Sort(names)
	if !slices.Equal(live, names) {
		t.Errorf("reported %v, recorded %v", live, names)
	}
	if r.RTO.Critical != sum || r.RTO.Wall < sum || r.RTO.Ready > r.RTO.Wall || r.RTO.Ready < 3000 || r.RTO.Detection != "not measured" {
		t.Errorf("rto %+v, sum of phases %d", r.RTO, sum)
	}
	for _, p := range r.Phases {
		if (p.Name == "fetch" || p.Name == "replay" || p.Name == "check/read") && p.Bytes == 0 {
			t.Errorf("no bytes: %+v", p)
		}
	}
}

// docs/drill-record.md lists exactly the fields of the JSON.
func TestRecordIsDocumented(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("../docs/drill-record.md")
	if err != nil {
		t.Fatal(err)
	}
	var listed []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(string(doc), -1) {
		listed = append(listed, m[1])
	}
	fields := jsonFields("", reflect.TypeFor[verify.Record]())
	slices.Sort(listed)
	slices.Sort(fields)
	for _, f := range fields {
		if !slices.Contains(listed, f) {
			t.Errorf("%s is not documented", f)
		}
	}
	for n, f := range listed {
		if !slices.Contains(fields, f) || n > 0 && listed[n-1] == f {
			t.Errorf("%s is documented, but there is no such field, or twice", f)
		}
	}
}

// jsonFields are the paths of all leaves: "source.lineage", "checks[].id".
func jsonFields(prefix string, t reflect.Type) []string {
	switch t.Kind() {
	case reflect.Pointer:
		return jsonFields(prefix, t.Elem())
	case reflect.Slice:
		return jsonFields(prefix+"[]", t.Elem())
	case reflect.Struct:
		if t == reflect.TypeFor[time.Time]() {
			return []string{prefix}
		}
	default: // maps are the engines' own documents
		return []string{prefix}
	}
	var out []string
	for n := range t.NumField() {
		name, _, _ := strings.Cut(t.Field(n).Tag.Get("json"), ",")
		path := strings.TrimPrefix(prefix+"."+name, ".")
		out = append(out, jsonFields(path, t.Field(n).Type)...)
	}
	return out
}

func TestSummary(t *testing.T) {
	t.Parallel()
	l := newLab(t)
	l.lose(3)
	q := l.request()
	q.Checks = []verify.UserCheck{{Name: "gone", SQL: "has missing"}}
	q.Objectives.RPO = time.Second
	var b strings.Builder
	l.must(l.drill(q).Summary(&b))
	t.Log("\n" + b.String())
	for _, want := range []string{
		"FAIL  drill of orders (fake-42) to the end of the archive\n",
		"  - RPO objective missed: up to 3.5s lost, 1s allowed\n",
		"RPO  between 2.5s and 3.5s\n",
		"  last inserted  beat 14  2026-11-22 12:00:13.500 UTC",
		"  last restored  beat 11  2026-11-22 12:00:10.500 UTC  0/0",
		"RTO  not reached\n",
		"  fail  gone  ",
		"To be fair\n  page cache unknown",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q", want)
		}
	}
	for line := range strings.Lines(b.String()) {
		if strings.HasSuffix(line, " \n") || strings.Contains(line, "\x1b") || strings.Contains(line, "\t") {
			t.Errorf("line %q", line)
		}
	}
}
