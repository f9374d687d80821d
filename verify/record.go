package verify

import (
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/testcontainers"
)

// RecordSchema is the version of Record's JSON. A field is never renamed or
// given another meaning within one version; docs/drill-record.md lists all.
const RecordSchema = 1

// Verdict is a drill's outcome.
type Verdict string

const (
	Pass       Verdict = "pass"
	Fail       Verdict = "fail"
	Unverified Verdict = "could not verify"
)

// Record is what is kept of a drill. It holds counts and hashes, never rows.
// Times are UTC; durations are whole milliseconds.
type Record struct {
	Schema           int       `json:"schema"`
	Tool             string    `json:"tool"`
	ID               string    `json:"id"`
	PrevRecordSHA256 string    `json:"prev_record_sha256"`
	Trigger          string    `json:"trigger"`
	Operator         string    `json:"operator"`
	Policy           string    `json:"policy"`
	Ticket           string    `json:"ticket"`
	Started          time.Time `json:"started"`
	Finished         time.Time `json:"finished"`

	Verdict Verdict  `json:"verdict"`
	Reasons []string `json:"reasons"`
	Hints   []string `json:"hints"`

	Source     SourceRecord     `json:"source"`
	Repository RepositoryRecord `json:"repository"`
	Base       BaseRecord       `json:"base"`
	Target     TargetRecord     `json:"target"`
	Replayed   LogRecord        `json:"log"`

	Sandbox   testcontainers.Description `json:"sandbox"`
	Host      HostRecord                 `json:"host"`
	Labels    []string                   `json:"labels"`
	Phases    []Phase                    `json:"phases"`
	RTO       RTORecord                  `json:"rto"`
	RPO       RPORecord                  `json:"rpo"`
	Objective ObjectiveRecord            `json:"objectives"`

	Checks   []engines.CheckResult `json:"checks"`
	Read     engines.ReadStats     `json:"read"`
	Findings []repo.Finding        `json:"findings"`
	Teardown TeardownRecord        `json:"teardown"`
}

// SourceRecord says whose backup was drilled.
type SourceRecord struct {
	Lineage   string            `json:"lineage"`
	Database  string            `json:"database"`
	Engine    string            `json:"engine"`
	Identity  map[string]string `json:"identity"`
	Reachable bool              `json:"reachable"`
	Version   string            `json:"version"`
	Note      string            `json:"note"`
}

// RepositoryRecord says which copy of the repository was read, and with what.
type RepositoryRecord struct {
	Location string `json:"location"`
	KeySlot  string `json:"key_slot"`
	KeyKind  string `json:"key_kind"`
}

// BaseRecord is the base backup that was restored.
type BaseRecord struct {
	ID        string    `json:"id"`
	Parent    string    `json:"parent"`
	Why       string    `json:"why"`
	Branch    string    `json:"branch"`
	Stop      string    `json:"stop"`
	StopTime  time.Time `json:"stop_time"`
	Items     int64     `json:"items"`
	Bytes     int64     `json:"bytes"`
	Packs     int       `json:"packs"`
	PackBytes int64     `json:"pack_bytes"`
	MapSHA256 string    `json:"map_sha256"`
	Tool      string    `json:"tool"`
}

// TargetRecord is where the restore was to end and where it ended.
type TargetRecord struct {
	Mode        Mode           `json:"mode"`
	Time        time.Time      `json:"time,omitzero"`
	Point       *engines.Point `json:"point,omitempty"`
	Branch      string         `json:"branch"`
	Stop        string         `json:"stop,omitempty"` // with a time or a point: where the replay was to end
	PlanEnd     string         `json:"plan_end"`
	PlanEndTime time.Time      `json:"plan_end_time,omitzero"`
	Reached     string         `json:"reached"`
	ReachedTime time.Time      `json:"reached_time,omitzero"`
}

// LogRecord is the log that went into the copy.
type LogRecord struct {
	From      string   `json:"from"`
	To        string   `json:"to"`
	Branches  []string `json:"branches"`
	Pieces    int64    `json:"pieces"`
	Bytes     int64    `json:"bytes"`
	AfterBase int64    `json:"after_base_ms"`
}

// HostRecord is where the drill ran.
type HostRecord struct {
	Name      string `json:"name"`
	OS        string `json:"os"`
	Arch      string `json:"arch"`
	CPUs      int    `json:"cpus"`
	Workers   int    `json:"workers"`
	WorkDir   string `json:"work_dir"`
	NeedBytes int64  `json:"need_bytes"`
	FreeBytes int64  `json:"free_bytes"`
}

// Phase is one rung of the ladder.
type Phase struct {
	Name    string    `json:"name"`
	Started time.Time `json:"started"`
	Took    int64     `json:"took_ms"`
	Bytes   int64     `json:"bytes"`
	Stored  int64     `json:"stored_bytes"`
	Rate    int64     `json:"bytes_per_second"`
	RTO     bool      `json:"in_rto"`
	Result  string    `json:"result"`
	Note    string    `json:"note"`
}

// RTORecord runs from the first command to passing assertions.
type RTORecord struct {
	Reached   bool   `json:"reached"`
	Wall      int64  `json:"wall_ms"`
	Critical  int64  `json:"critical_path_ms"`
	Ready     int64  `json:"to_ready_ms"`
	Detection string `json:"detection"`
}

// RPORecord is what the copy proves about loss; see rpo.go.
type RPORecord struct {
	Measured     bool        `json:"measured"`
	Basis        string      `json:"basis"`
	Statement    string      `json:"statement"`
	T            time.Time   `json:"t,omitzero"`
	TBasis       string      `json:"t_basis"`
	Min          int64       `json:"min_ms"`
	Max          int64       `json:"max_ms"`
	LastInserted *BeatRecord `json:"last_inserted"`
	LastRestored *BeatRecord `json:"last_restored"`
	FirstAbsent  *BeatRecord `json:"first_absent"`
	LostBeats    int64       `json:"lost_beats"`
	LastCommit   time.Time   `json:"last_commit,omitzero"`
}

// BeatRecord is one heartbeat.
type BeatRecord struct {
	N   int64     `json:"n"`
	At  time.Time `json:"at"`
	Pos string    `json:"position"`
}

// ObjectiveRecord compares what was asked with what was measured.
type ObjectiveRecord struct {
	RPO        int64  `json:"rpo_ms"`
	RPOVerdict string `json:"rpo_verdict"`
	RTO        int64  `json:"rto_ms"`
	RTOVerdict string `json:"rto_verdict"`
}

// TeardownRecord proves that nothing was left.
type TeardownRecord struct {
	Needed   bool   `json:"needed"`
	Removed  bool   `json:"removed"`
	Leftover string `json:"leftover"`
}

// ExitCode is the process's: 0 pass, 1 fail, 3 could not verify.
func (r *Record) ExitCode() int {
	switch r.Verdict {
	case Pass:
		return 0
	case Fail:
		return 1
	default:
		return 3
	}
}
