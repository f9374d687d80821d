package repo

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"time"
)

// Format is the on-store format version. It is a draft until deletion, locks,
// keys, copies and all three engines have used it.
const Format = 0

var (
	// ErrNoRepository: there is no repo.json under the store's prefix.
	ErrNoRepository = errors.New("no repository here")
	// ErrExists: Init found a repository, or a lineage name is taken.
	ErrExists = errors.New("already exists")
	// ErrFormat: a newer or unknown format version, magic or algorithm.
	ErrFormat = errors.New("unknown format")
	// ErrKey: no key slot opens with the key given.
	ErrKey = errors.New("no key slot opens with this key")
	// ErrNotFound: no such lineage, backup, branch or segment.
	ErrNotFound = errors.New("not found in the repository")
	// ErrDamaged: bytes do not match their name, hash or authentication tag.
	// It is wrapped with the object's key and the place inside it.
	ErrDamaged = errors.New("damaged object")
	// ErrFork: a create-only log or branch key exists with other content: two
	// histories claim one place (a clone, a split brain). Nothing may be
	// acknowledged after it.
	ErrFork = errors.New("another history holds this place")
)

// Position is an exact place in one branch's log. It orders bytes or entries
// within a branch and is opaque to everything but the engine: a PostgreSQL
// LSN; a MongoDB optime T<<32|I; a MySQL binlog file number<<40|offset.
type Position uint64

// Key is the position's form in object keys: 16 hexadecimal digits.
func (p Position) Key() string { return fmt.Sprintf("%016x", uint64(p)) }

// PackID is the SHA-256 of a pack object's bytes.
type PackID [32]byte

func (id PackID) String() string               { return hex.EncodeToString(id[:]) }
func (id PackID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }
func (id *PackID) UnmarshalText(b []byte) error {
	if len(b) != 64 {
		return fmt.Errorf("pack id: want 64 hexadecimal digits, have %d", len(b))
	}
	_, err := hex.Decode(id[:], b)
	return err
}

// ExtentID is a keyed BLAKE3 of an extent's plaintext under the repository's
// id key and the lineage, cut to 128 bits. Equal ids mean equal bytes.
type ExtentID [16]byte

// FrameRef finds one frame inside a pack.
type FrameRef struct {
	Index  uint32 // the frame's counter: nonce and additional data
	Offset uint32 // of its first byte in the pack object
	Stored uint32 // bytes in the pack object
}

// LineageInfo is lineage.json: the identity of one physical history.
type LineageInfo struct {
	ID       string            `json:"id"`       // "pg-<system identifier>"; matches blob key rules
	Engine   string            `json:"engine"`   // "postgres"
	Database string            `json:"database"` // the name the user chose
	Identity map[string]string `json:"identity"` // engine facts that never change
	Created  time.Time         `json:"created"`
}

// PackInfo is a manifest's entry for one pack its map refers to.
type PackInfo struct {
	ID   PackID `json:"id"`
	Size int64  `json:"size"` // bytes stored
}

// ItemKind says what an item is.
type ItemKind uint8

const (
	KindFile    ItemKind = 0 // bytes
	KindDir     ItemKind = 1
	KindSymlink ItemKind = 2
)

// Item is one thing a backup holds: a file, a table, a collection. Its bytes
// are extents, described by blocks that are stored in packs; the map lists
// the items.
type Item struct {
	Path    string // slash-separated, relative, no "." or ".." elements; unique within a backup
	Kind    ItemKind
	Mode    fs.FileMode // permission bits
	ModTime time.Time   // second precision
	Size    int64       // plaintext bytes
	Link    string      // symlink target
	// Extent is the plaintext length of every extent but the last, bytes: the
	// page size of a page file, so that increments compare page by page.
	// MinExtent to FrameSize for a file with content.
	Extent uint32
	Attrs  map[string]string // engine facts about this item
	Blocks []BlockRef        // in order of offset
}

// BlockRef finds one encoded Block: bytes [Off, Off+Len) of a frame's plaintext.
type BlockRef struct {
	Pack  uint32 // index in the manifest's Packs
	Frame FrameRef
	Off   uint32
	Len   uint32
	// ID is Lineage.ExtentID of the encoded block. Packs of one lineage
	// authenticate alone, so without it a hostile store could answer with
	// another pack that happens to hold a block at the same place.
	ID ExtentID
}

// Block maps up to 64 MiB of one item to where its extents are stored. It
// names packs by content, so an unchanged stretch has the same block in the
// next backup and is referred to, not written again.
type Block struct {
	Packs []PackID   // what Runs refer to
	Runs  []Run      // in order of offset in the item
	IDs   []ExtentID // one an extent, in order; sum of Run.Count
}

// Run is a stretch of consecutive extents stored consecutively in one frame.
type Run struct {
	Pack  uint32 // index in Block.Packs
	Frame FrameRef
	Skip  uint32 // plaintext offset in the frame where the run begins
	Count uint32 // extents
}

// Finding is something a user should know: from check, a backup, a drill.
type Finding struct {
	Severity string `json:"severity"` // "error", "warning", "info"
	Code     string `json:"code"`     // stable, kebab-case
	Message  string `json:"message"`
	Fix      string `json:"fix,omitempty"` // exact SQL or command
}

// Manifest is the commit of one base backup. Clear fields can be read without
// a key (the expirer's view); the rest is sealed and bound to the clear part.
type Manifest struct {
	// In clear.
	Format   int        `json:"-"`
	ID       string     `json:"-"` // "20061102T150405Z-<6 hex>": sorts by time
	Lineage  string     `json:"-"`
	Created  time.Time  `json:"-"` // commit time by this host's clock
	Parent   string     `json:"-"` // backup whose extents were reused, or ""
	Packs    []PackInfo `json:"-"`
	MapBytes int64      `json:"-"`

	// Sealed.
	Engine     string          `json:"engine"`
	Database   string          `json:"database"`
	Branch     string          `json:"branch"`     // branch of Stop
	Start      Position        `json:"start"`      // log is needed from here …
	LogFrom    Position        `json:"log_from"`   // … in fact from here: Start rounded down to what replay reads
	Stop       Position        `json:"stop"`       // consistent at and after this
	StartTime  time.Time       `json:"start_time"` // source's clock
	StopTime   time.Time       `json:"stop_time"`  // source's clock
	Items      int64           `json:"items"`
	Bytes      int64           `json:"bytes"`      // plaintext of all items
	NewBytes   int64           `json:"new_bytes"`  // plaintext stored by this backup
	NewStored  int64           `json:"new_stored"` // bytes put into the store by this backup
	MapSHA256  string          `json:"map_sha256"`
	Details    json.RawMessage `json:"details,omitempty"`  // the engine's own document
	Findings   []Finding       `json:"findings,omitempty"` // e.g. damaged pages
	Tool       string          `json:"tool"`
	DurationMS int64           `json:"duration_ms"`
}

// Intent announces a running backup, so that nothing it relies on is expired.
type Intent struct {
	ID      string    `json:"id"` // the backup's id
	Parent  string    `json:"parent,omitempty"`
	Host    string    `json:"host"`
	PID     int       `json:"pid"`
	Started time.Time `json:"started"`
}

// Branch is the create-only record of one unforked stretch of log.
type Branch struct {
	ID       string            `json:"id"`               // deterministic from the proof; the engine names it
	Parent   string            `json:"parent,omitempty"` // branch id, "" for a root
	Fork     Position          `json:"fork"`             // first position of this branch; 0 for a root
	Number   uint64            `json:"number"`           // timeline, term: for people and engines
	Proof    map[string]string `json:"proof"`            // engine facts: history file and its hash, …
	Recorded time.Time         `json:"recorded"`
}

// SegmentRef is what a segment's key says.
type SegmentRef struct {
	Branch     string
	Level      int
	Start, End Position // [Start, End)
	Stored     int64    // bytes in the store
}

// Beat is one heartbeat the source acknowledged (committed).
type Beat struct {
	N   int64     `json:"n"`   // counts up by one a beat, from 1, for the life of a lineage
	At  time.Time `json:"at"`  // source's clock, microseconds
	Pos Position  `json:"pos"` // a position at or after the beat's commit
}

// MarkKind says what a Mark is.
type MarkKind string

const (
	MarkCommit       MarkKind = "commit"
	MarkAbort        MarkKind = "abort"
	MarkRestorePoint MarkKind = "restore-point"
	MarkCheckpoint   MarkKind = "checkpoint"
	MarkBranchEnd    MarkKind = "branch-end" // the server went on to another branch here
)

// Mark is one record of the log that a person can name.
type Mark struct {
	Kind  MarkKind  `json:"kind"`
	Start Position  `json:"start"`         // where its record begins
	End   Position  `json:"end"`           // where the record behind it begins
	Time  time.Time `json:"time,omitzero"` // source's clock
	ID    string    `json:"id,omitempty"`  // of a transaction: xid, GTID
	Name  string    `json:"name,omitempty"`
}

// LogIndex says what a segment's log holds, so that a place in the log is
// found without reading all of it. A record belongs to the segment that holds
// its last byte.
type LogIndex struct {
	Complete    bool      `json:"complete"`        // every record that ends in the segment was seen
	First       Position  `json:"first,omitempty"` // where the first record that begins in the segment begins; 0: none does
	Commits     int64     `json:"commits,omitempty"`
	Aborts      int64     `json:"aborts,omitempty"`
	FirstCommit *Mark     `json:"first_commit,omitempty"`
	LastCommit  *Mark     `json:"last_commit,omitempty"`
	MinTime     time.Time `json:"min_time,omitzero"` // of commits and aborts, which need not be in order of time
	MaxTime     time.Time `json:"max_time,omitzero"`
	MinID       uint64    `json:"min_id,omitempty"` // of their transactions and subtransactions, where the engine numbers them
	MaxID       uint64    `json:"max_id,omitempty"`
	Marks       []Mark    `json:"marks,omitempty"` // restore points, checkpoints, branch ends; in order
}

// SegmentMeta is a segment's sealed header.
type SegmentMeta struct {
	Branch     string    `json:"branch"`
	Start      Position  `json:"start"`
	End        Position  `json:"end"`
	PrevEnd    Position  `json:"prev_end"`        // end of the segment before it in the same run of the archiver; 0 for the first
	PrevHash   string    `json:"prev_hash"`       // its Hash
	Hash       string    `json:"hash"`            // SHA-256 of the plaintext log bytes, hex; set by PutSegment
	FirstTime  time.Time `json:"first_time"`      // source's clock when the first byte was sent
	LastTime   time.Time `json:"last_time"`       // source's clock when the last byte was sent
	SourceTime time.Time `json:"source_time"`     // source's clock at the last good round trip before sealing
	Sealed     time.Time `json:"sealed"`          // this host's clock
	Reason     string    `json:"reason"`          // "time", "size", "boundary", "shutdown"
	Beats      []Beat    `json:"beats,omitempty"` // acknowledged since the previous segment was sealed
	Index      *LogIndex `json:"index,omitempty"` // nil: not known
}

// Note records what no segment could carry any more: beats acknowledged by a
// source that then died, and its clock at the last good round trip.
type Note struct {
	Branch     string    `json:"branch"`
	Written    time.Time `json:"written"` // this host's clock
	SourceTime time.Time `json:"source_time"`
	Beats      []Beat    `json:"beats,omitempty"`
	Event      string    `json:"event"` // "source-lost", "shutdown"
}
