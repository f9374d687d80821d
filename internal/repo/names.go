package repo

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/holdfastdb/holdfast/internal/blob"
)

// Object keys (F1; F26 is reserved). Numbers are zero-padded, so that listing order is the
// order of positions or times.
const (
	keyRepo    = "repo.json"
	keyFormat  = "FORMAT.md"
	prefixKeys = "keys/"
	prefixLins = "l/"
)

func slotKey(name string) string       { return prefixKeys + name + ".json" }
func linPrefix(lineage string) string  { return prefixLins + lineage + "/" }
func lineageKey(lineage string) string { return linPrefix(lineage) + "lineage.json" }

func leaseKey(lineage string) string { return linPrefix(lineage) + "lease.json" }

func packKey(lineage string, id PackID) string {
	s := id.String()
	return linPrefix(lineage) + "pack/" + s[:2] + "/" + s
}

func backupPrefix(lineage string) string   { return linPrefix(lineage) + "backup/" }
func mapKey(lineage, backup string) string { return backupPrefix(lineage) + backup + "/map" }
func manifestKey(lineage, backup string) string {
	return backupPrefix(lineage) + backup + "/manifest.json"
}
func intentKey(lineage, backup string) string {
	return linPrefix(lineage) + "intent/" + backup + ".json"
}
func tombKey(lineage, backup string) string { return linPrefix(lineage) + "tomb/" + backup + ".json" }

func branchPrefix(lineage string) string      { return linPrefix(lineage) + "branch/" }
func branchKey(lineage, branch string) string { return branchPrefix(lineage) + branch + ".json" }
func notePrefix(lineage string) string        { return linPrefix(lineage) + "note/" }
func noteKey(lineage, id string) string       { return notePrefix(lineage) + id + ".json" }
func recordPrefix(lineage string) string      { return linPrefix(lineage) + "record/" }
func recordKey(lineage, id string) string     { return recordPrefix(lineage) + id + ".json" }
func logPrefix(lineage, branch string) string { return linPrefix(lineage) + "log/" + branch + "/" }

// spoolKey is what a spool file is bound to; no object has this key.
func spoolKey(lineage, name string) string { return "spool/" + lineage + "/" + name }

func segmentKey(lineage string, ref SegmentRef) string {
	return fmt.Sprintf("%s%d/%s-%s", logPrefix(lineage, ref.Branch), ref.Level, ref.Start.Key(), ref.End.Key())
}

// parseSegmentKey is the inverse of segmentKey for the part of a key behind
// logPrefix: "<level>/<start>-<end>".
func parseSegmentKey(rest string) (level int, start, end Position, err error) {
	bad := fmt.Errorf("%w: %q does not name a log segment", ErrDamaged, rest)
	lv, span, ok := strings.Cut(rest, "/")
	if !ok || len(lv) != 1 || lv[0] < '0' || lv[0] > '9' || len(span) != 33 || span[16] != '-' {
		return 0, 0, 0, bad
	}
	s, err1 := strconv.ParseUint(span[:16], 16, 64)
	e, err2 := strconv.ParseUint(span[17:], 16, 64)
	if err1 != nil || err2 != nil || s >= e || span != strings.ToLower(span) {
		return 0, 0, 0, bad
	}
	return int(lv[0] - '0'), Position(s), Position(e), nil
}

// checkName refuses a name that cannot stand as one part of a key.
func checkName(what, name string) error {
	if strings.Contains(name, "/") {
		return fmt.Errorf("%s %q: a name may not hold a slash", what, name)
	}
	if err := blob.CheckKey(name); err != nil {
		return fmt.Errorf("%s %q: %w", what, name, err)
	}
	if len(name) > 128 {
		return fmt.Errorf("%s %q: longer than 128 bytes", what, name)
	}
	return nil
}
