package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/wal"
)

// Status is one database at a glance: what the store holds, what the server
// says, how far apart they are, and what needs attention.
type Status struct {
	Database   string               `json:"database"`
	Lineage    string               `json:"lineage,omitempty"`
	Reachable  bool                 `json:"reachable"`
	Streaming  bool                 `json:"streaming"` // somebody follows the log: by its lease, or our slot is active
	Stream     *StreamSummary       `json:"stream,omitempty"`
	Guarantee  *engines.Guarantee   `json:"guarantee,omitempty"` // what a commit that returned is worth now
	LastBackup *BackupSummary       `json:"last_backup,omitempty"`
	Windows    []engines.Window     `json:"windows"`
	Coverage   []wal.BranchCoverage `json:"coverage"`
	Exposure   Exposure             `json:"exposure"`
	LastDrill  *DrillSummary        `json:"last_drill,omitempty"`
	Retained   []engines.Retained   `json:"retained,omitempty"`
	Findings   []repo.Finding       `json:"findings"`

	newestFrom repo.Position // log that the newest backup needs begins here
}

// BackupSummary is one backup in lists.
type BackupSummary struct {
	ID        string        `json:"id"`
	Parent    string        `json:"parent,omitempty"`
	Branch    string        `json:"branch"`
	StopTime  time.Time     `json:"stop_time"`
	Stop      repo.Position `json:"stop"`
	Bytes     int64         `json:"bytes"`
	NewStored int64         `json:"new_stored"`
	Packs     int           `json:"packs"`
	Findings  int           `json:"findings"`
}

// Exposure is the live distance between server and store: what would be lost
// if the server vanished now. Known is false when the server cannot be asked.
type Exposure struct {
	Known      bool          `json:"known"`
	Bytes      int64         `json:"bytes"`  // log written by the server and not yet durable in the store
	Age        time.Duration `json:"age_ns"` // at most: since the store's newest log was sent; 0 when no bytes are missing
	ServerTime time.Time     `json:"server_time,omitzero"`
	StoreTime  time.Time     `json:"store_time,omitzero"` // source's clock at the store's newest log
}

// StreamSummary is what the log's lease says of its holder.
type StreamSummary struct {
	Kind    string        `json:"kind"` // "stream" or "backup"
	Host    string        `json:"host"`
	PID     int           `json:"pid"`
	Epoch   uint64        `json:"epoch"`
	Renewed time.Time     `json:"renewed"` // by the holder's clock
	Age     time.Duration `json:"age_ns"`  // since then, by both hosts' clocks
	Report  *StreamReport `json:"report,omitempty"`
}

// silentLease is how old a lease's last renewal may be (it is renewed every
// five seconds, and at once when something changes) before its holder is said
// to be silent.
const silentLease = 10 * time.Second

// DrillSummary is the newest drill's record in short.
type DrillSummary struct {
	ID       string    `json:"id"`
	Verdict  string    `json:"verdict"`
	Finished time.Time `json:"finished"`
	RTOms    int64     `json:"rto_ms"`
	RPOms    int64     `json:"rpo_max_ms"`
}

// Status gathers one database's state. src is nil where it cannot be reached
// (why says so); l is nil where nothing was ever backed up.
func (d Deps) Status(ctx context.Context, database string, l *repo.Lineage, src engines.Source, why error) (*Status, error) {
	s := &Status{Database: database, Findings: []repo.Finding{}}
	if why != nil {
		s.find("error", "unreachable", "the server cannot be asked: "+why.Error(), hferr.HintOf(why))
	}
	if l == nil {
		s.find("error", "no-backup", "nothing has been backed up yet", "holdfast backup "+database)
	} else if err := s.fromStore(ctx, d, l); err != nil {
		return nil, err
	}
	if src != nil {
		if err := s.fromServer(ctx, src); err != nil {
			s.find("error", "unreachable", "the server cannot be asked: "+err.Error(), hferr.HintOf(err))
		}
	}
	if d.Repo.OpenedWith().Kind != "recovery" && l != nil && s.LastDrill == nil {
		s.find("warning", "never-drilled", "recovery of this database has never been proven", "holdfast drill "+database)
	}
	return s, nil
}

func (s *Status) find(severity, code, message, fix string) {
	s.Findings = append(s.Findings, repo.Finding{Severity: severity, Code: code, Message: message, Fix: fix})
}

// fromStore fills in what the repository alone knows.
func (s *Status) fromStore(ctx context.Context, d Deps, l *repo.Lineage) error {
	s.Lineage = l.Info().ID
	all, err := l.Backups(ctx)
	if err != nil {
		s.find("error", "unreadable-backup", err.Error(), "holdfast verify says what is damaged; take a new backup")
	}
	if len(all) == 0 {
		s.find("error", "no-backup", "there is no base backup", "holdfast backup "+s.Database)
	} else {
		last := Summarize(all[len(all)-1])
		s.LastBackup, s.newestFrom = &last, all[len(all)-1].LogFrom
	}
	if s.Windows, err = engines.Windows(ctx, l); err != nil && len(s.Windows) == 0 && len(all) > 0 {
		return err
	}
	for _, w := range s.Windows {
		if w.Problem != "" {
			s.find("warning", "window", "backup "+w.Backup+": "+w.Problem, "")
		}
	}
	if s.Coverage, err = wal.Summary(ctx, l); err != nil {
		return err
	}
	if err := s.lease(ctx, d.Clock(), l); err != nil {
		return err
	}
	return s.drills(ctx, l)
}

// lease tells who writes the log, how far they are and what is wrong there.
func (s *Status) lease(ctx context.Context, now time.Time, l *repo.Lineage) error {
	held, _, err := l.ReadLease(ctx)
	if errors.Is(err, repo.ErrNotFound) {
		return nil
	}
	if err != nil {
		s.find("error", "lease", "the log's lease cannot be read: "+err.Error(), "holdfast verify "+s.Database+" says whether it is damaged")
		return nil //nolint:nilerr // it is in the findings; the rest is worth showing
	}
	sum := &StreamSummary{Kind: held.Kind, Host: held.Holder.Host, PID: held.Holder.PID, Epoch: held.Epoch,
		Renewed: held.Renewed, Age: now.Sub(held.Renewed).Abs()}
	if len(held.Report) > 0 {
		sum.Report = &StreamReport{}
		if err := json.Unmarshal(held.Report, sum.Report); err != nil {
			return fmt.Errorf("the streamer's report is no JSON: %w", err)
		}
	}
	who := fmt.Sprintf("process %d on %s", sum.PID, sum.Host)
	if held.Released {
		if r := sum.Report; r != nil && r.Condition != "" {
			s.find("error", string(r.Condition), fmt.Sprintf("the last stream (%s) ended: %s", who, r.Message), r.Hint)
		}
		return nil
	}
	s.Stream = sum
	if r := sum.Report; r != nil && r.SpoolDamage != "" {
		s.find("error", string(ConditionSpoolDamaged), "the spool of an earlier run was damaged: "+r.SpoolDamage,
			"Keep its *.damaged files and check the disk. If the log has a hole now, take a new base backup: holdfast backup "+s.Database)
	}
	if sum.Age > silentLease && !renewed(ctx, l, held) {
		s.find("error", "stream-silent", fmt.Sprintf("the streamer (%s) has not reported for %s", who, sum.Age.Round(time.Second)),
			"Look whether it runs and reaches the store; holdfast stream "+s.Database+" takes over from one that has ended.")
		return nil
	}
	s.Streaming = held.Kind == repo.LeaseStream
	if r := sum.Report; r != nil && r.Condition != "" {
		severity := "error"
		if r.Condition == ConditionLogHole && r.Hole != nil && s.newestFrom >= r.Hole.End {
			severity = "warning" // the newest backup begins behind it
		}
		s.find(severity, string(r.Condition), fmt.Sprintf("%s (says the streamer, %s, since %s)", r.Message, who, r.Since.UTC().Format(time.RFC3339)), r.Hint)
	}
	return nil
}

// renewed waits a little for a lease whose renewal looks old: the two hosts'
// clocks may differ.
func renewed(ctx context.Context, l *repo.Lineage, held *repo.Lease) bool {
	for range 4 {
		if sleep(ctx, 2*time.Second) != nil {
			return false
		}
		now, _, err := l.ReadLease(ctx)
		if err == nil && !now.Released && now.Same(held) && !now.Renewed.Equal(held.Renewed) {
			return true
		}
	}
	return false
}

func (s *Status) drills(ctx context.Context, l *repo.Lineage) error {
	recs, err := l.Records(ctx)
	if err != nil || len(recs) == 0 {
		return err
	}
	// Only what a status line needs: the record's own type lives in verify.
	var doc struct {
		ID       string    `json:"id"`
		Verdict  string    `json:"verdict"`
		Finished time.Time `json:"finished"`
		RTO      struct {
			Wall int64 `json:"wall_ms"`
		} `json:"rto"`
		RPO struct {
			Max int64 `json:"max_ms"`
		} `json:"rpo"`
	}
	last := recs[len(recs)-1]
	if err := json.Unmarshal(last.Body, &doc); err != nil {
		return errors.Join(errors.New("the newest drill's record is no JSON"), err)
	}
	s.LastDrill = &DrillSummary{ID: last.ID, Verdict: doc.Verdict, Finished: doc.Finished, RTOms: doc.RTO.Wall, RPOms: doc.RPO.Max}
	if doc.Verdict != "pass" {
		s.find("error", "drill-"+doc.Verdict, "the last drill did not pass: "+doc.Verdict, "holdfast drill "+s.Database)
	}
	return nil
}

// fromServer compares the server's position with the store's: never with now,
// so an idle server is neither stalled nor exposed.
func (s *Status) fromServer(ctx context.Context, src engines.Source) error {
	id, err := src.Identify(ctx)
	if err != nil {
		return err
	}
	s.Reachable = true
	if s.Retained, err = src.Log().Retained(ctx); err != nil {
		return err
	}
	for _, r := range s.Retained {
		s.Streaming = s.Streaming || r.Ours && r.Active
	}
	for _, r := range s.Retained {
		if r.Ours && (r.State == "lost" || r.State == "unreserved") {
			s.find("error", string(engines.ConditionSlotLost), "what keeps the log for us on the server ("+r.Name+") is "+r.State,
				"holdfast slot drop "+s.Database+", start the stream again, and take a new base backup")
		}
	}
	if g, err := src.Log().Guarantee(ctx); err == nil {
		s.Guarantee = &g
		s.Findings = append(s.Findings, g.Findings...)
	}
	if !s.Streaming {
		s.find("warning", "not-streaming", "no live streamer follows this server's log", "holdfast stream "+s.Database)
	}
	if s.Lineage != "" && id.Lineage.ID != s.Lineage {
		s.find("error", "other-lineage", "this server is "+id.Lineage.ID+", the newest recorded lineage is "+s.Lineage, "it was re-initialised or replaced: take a new base backup")
		return nil
	}
	s.Exposure.ServerTime = id.Time
	for _, c := range s.Coverage {
		if c.Branch.ID != id.Branch.ID || len(c.Ranges) == 0 {
			continue
		}
		end := c.Ranges[len(c.Ranges)-1].End
		s.Exposure.Known, s.Exposure.StoreTime = true, c.LastTime
		if id.Position > end {
			s.Exposure.Bytes = int64(id.Position - end)
			s.Exposure.Age = max(0, id.Time.Sub(c.LastTime))
		}
		if len(c.Ranges) > 1 {
			s.find("warning", "log-hole", "the log of branch "+c.Branch.ID+" is held in more than one piece: moments between them cannot be restored", "a base backup taken now starts a new window")
		}
	}
	return nil
}

// Summarize makes a manifest's line for lists.
func Summarize(m repo.Manifest) BackupSummary {
	return BackupSummary{
		ID: m.ID, Parent: m.Parent, Branch: m.Branch, StopTime: m.StopTime, Stop: m.Stop,
		Bytes: m.Bytes, NewStored: m.NewStored, Packs: len(m.Packs), Findings: len(m.Findings),
	}
}
