// Package wal is the log archive, the same for all engines (WAL, binlog,
// oplog): positions, segments, coverage and gaps, the archiver that turns a
// stream into durable segments, the plan of a replay and the feed that serves
// it. It does not parse any engine's log (the engine does) and defines no
// stored bytes (internal/repo does).
//
// A newcomer reads intake.go (what an engine writes into), archiver.go with
// segment.go and uploader.go (the way in), coverage.go and plan.go (what is
// held, what a replay needs), reader.go and feed.go (the way out), and
// summary.go (what status and drills ask).
//
// Logs here are byte logs: a segment of [Start, End) holds End-Start bytes.
package wal
