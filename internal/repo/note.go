package repo

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
)

// PutNote stores a note under a name made of its time and content, so that
// storing it again finds it stored (F25).
func (l *Lineage) PutNote(ctx context.Context, n Note) error {
	if err := l.writable(); err != nil {
		return err
	}
	n.Written = cmp.Or(n.Written, l.o.Clock()).UTC()
	plain, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("encode note: %w", err)
	}
	sum := l.ExtentID(plain)
	id := n.Written.Format("20060102T150405.000000Z") + "-" + hex.EncodeToString(sum[:6])
	return l.putSealed(ctx, typeNote, noteKey(l.keys.lineage, id), plain)
}

// Notes lists all notes, ordered by Written. One that cannot be read is in
// the error; the others are returned all the same.
func (l *Lineage) Notes(ctx context.Context) ([]Note, error) {
	var out []Note
	err := l.eachDocument(ctx, notePrefix(l.keys.lineage), func(id string, body []byte) error {
		var n Note
		err := l.keys.openDocument(body, typeNote, noteKey(l.keys.lineage, id), nil, &n)
		if err == nil {
			out = append(out, n)
		}
		return err
	})
	slices.SortStableFunc(out, func(a, b Note) int { return a.Written.Compare(b.Written) })
	return out, err
}

// Record is one stored record.
type Record struct {
	ID   string
	Body []byte // JSON
}

// PutRecord stores a drill's record (JSON) under record/<id>.json, sealed. An
// equal record under that id counts as stored; another is ErrExists.
func (l *Lineage) PutRecord(ctx context.Context, id string, body []byte) error {
	if err := l.writable(); err != nil {
		return err
	}
	if err := checkName("record", id); err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, body); err != nil {
		return fmt.Errorf("record %s is not JSON: %w", id, err)
	}
	return l.putSealed(ctx, typeRecord, recordKey(l.keys.lineage, id), compact.Bytes())
}

// Records lists all records, ordered by id, so oldest first where ids begin
// with a time. One that cannot be read is in the error; the others are
// returned all the same.
func (l *Lineage) Records(ctx context.Context) ([]Record, error) {
	var out []Record
	err := l.eachDocument(ctx, recordPrefix(l.keys.lineage), func(id string, body []byte) error {
		var raw json.RawMessage
		err := l.keys.openDocument(body, typeRecord, recordKey(l.keys.lineage, id), nil, &raw)
		if err == nil {
			out = append(out, Record{ID: id, Body: raw})
		}
		return err
	})
	return out, err
}

// putSealed stores a document whose content is all sealed.
func (l *Lineage) putSealed(ctx context.Context, typ objType, key string, plain []byte) error {
	body, err := l.keys.sealDocument(typ, key, struct{}{}, json.RawMessage(plain))
	if err != nil {
		return err
	}
	return create(ctx, l.st, key, body, func(existing []byte) error {
		var was json.RawMessage
		if err := l.keys.openDocument(existing, typ, key, nil, &was); err != nil {
			return err
		}
		if !sameJSON(was, json.RawMessage(plain)) {
			return fmt.Errorf("%s: %w with other content", key, ErrExists)
		}
		return nil
	})
}
