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
//
// One log, one writer. A lineage's lease (lease.go, leasetake.go,
// leasekeep.go; rule F26) names the writer and counts writers by an epoch. It
// does not make the data safe: create-only keys do, also when two write. It
// makes an acknowledgement mean that the next writer knows of it. That takes
// one thing of each side. A writer reads the lease after each put was
// confirmed and before it acknowledges anything (Lease.Check). Its successor
// first swaps the lease to a higher epoch (AcquireLease) and only then lists
// what the store holds. With a store whose reads see every finished write:
//
//   - A check that passes read the lease before the successor's swap, or it
//     would have found the higher epoch. So put < check < swap < list, and the
//     list shows what was put: everything acknowledged under an old epoch, the
//     successor has seen. It makes no difference how long the writer was
//     paused between its check and its acknowledgement.
//   - A check that begins after the swap fails, and every check after it. So
//     what an old writer still puts, it never acknowledges; it lies where the
//     successor's own puts find it (F3), equal or a fork.
//
// Nothing here depends on clocks: TTLs, renewals and what is known of a
// holder's process only decide when somebody tries to take over. TestFence
// tries the argument in thousands of orders of steps, and without the check.
package wal
