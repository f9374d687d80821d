package verify

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

// newID names a record so that names sort by time.
func newID(now time.Time) string {
	var b [3]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return now.UTC().Format("20060102T150405.000000Z") + "-" + hex.EncodeToString(b[:])
}

// conclude fills in what was measured and settles the verdict.
func (d *drill) conclude() {
	r := d.rec
	d.measureRPO()
	d.judgeObjectives()
	r.RTO.Wall = ceilMilliseconds(d.asserts)
	r.Finished = d.q.Clock().UTC()
	r.settle(d.problems)
	r.RTO.Reached = d.asserts > 0 && len(failedChecks(r)) == 0
	r.Phases = d.ladder.all()
	if d.asserts > 0 {
		r.RTO.Critical = d.ladder.critical()
	}
}

func failedChecks(r *Record) []string {
	var ids []string
	for _, c := range r.Checks {
		if c.Verdict == "fail" {
			ids = append(ids, c.ID)
		}
	}
	return ids
}

// store chains the record to the one before it, puts it into the lineage and,
// if asked for, into a local file of the same bytes. A pass that leaves no
// evidence is no pass.
func (d *drill) store(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), teardownLimit)
	defer cancel()
	body, err := d.chain(ctx)
	if err == nil {
		err = d.q.Lineage.PutRecord(ctx, d.rec.ID, body)
	}
	if err != nil {
		d.unrecorded(fmt.Errorf("the record could not be stored in the repository: %w", err))
		body, err = json.Marshal(d.rec)
	}
	if err == nil && d.q.RecordDir != "" {
		err = writeRecord(d.q.RecordDir, d.rec.ID, body)
	}
	if err != nil {
		d.unrecorded(fmt.Errorf("the record could not be written to %s: %w", d.q.RecordDir, err))
	}
}

// chain names the record before this one by its hash.
func (d *drill) chain(ctx context.Context) ([]byte, error) {
	before, err := d.q.Lineage.Records(ctx)
	if err != nil {
		if !errors.Is(err, repo.ErrDamaged) {
			return nil, err
		}
		d.finding("warning", "records-unreadable", "the chain of records has a damaged link: "+err.Error())
	}
	if last := lastFinished(before); last != nil {
		sum := sha256.Sum256(last)
		d.rec.PrevRecordSHA256 = hex.EncodeToString(sum[:])
	}
	return json.Marshal(d.rec)
}

// lastFinished is the newest link of the chain: ids sort by a drill's start,
// and a drill that began earlier may have ended later.
func lastFinished(records []repo.Record) []byte {
	var last []byte
	var at time.Time
	for _, r := range records {
		var head struct {
			Finished time.Time `json:"finished"`
		}
		if json.Unmarshal(r.Body, &head) == nil && !head.Finished.Before(at) {
			last, at = r.Body, head.Finished
		}
	}
	return last
}

func (d *drill) unrecorded(err error) {
	d.log.Info("drill record not kept", "error", err)
	if d.rec.Verdict == Pass {
		d.rec.Verdict = Unverified
	}
	d.rec.Reasons = append(d.rec.Reasons, err.Error())
}

// writeRecord makes the file appear whole or not at all.
func writeRecord(dir, id string, body []byte) error {
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return err
	}
	tmp, err := os.CreateTemp(dir, ".record-")
	if err != nil {
		return err
	}
	_, err = tmp.Write(body)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), filepath.Join(dir, id+".json"))
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// countOrHash is what a record may hold of a value: a number, a truth value,
// or a hash.
func countOrHash(v string) string {
	if _, err := strconv.ParseFloat(v, 64); err == nil && len(v) <= 20 {
		return v
	}
	switch strings.ToLower(v) {
	case "", "t", "f", "true", "false":
		return v
	}
	sum := sha256.Sum256([]byte(v))
	return "sha256:" + hex.EncodeToString(sum[:])
}
