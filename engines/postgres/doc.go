// Package postgres is the PostgreSQL engine (13 and later): the source side
// asks a server who it is, checks it, takes base backups over the replication
// protocol, follows its WAL through a physical slot and writes heartbeats; the
// restore side (restore.go, replay_*.go, copy_*.go, feed.go, walname.go) turns
// what the store holds back into a server that answers.
//
// Everything PostgreSQL-specific belongs here: SQL, protocol, file names,
// timelines, error texts. What does not: how bytes are cut, stored and found
// again (stream, wal, internal/repo), and when anything runs (cmd, verify).
//
// The replication protocol is the one of the manual's chapter "Streaming
// Replication Protocol"; where a server's behaviour decided the code, the
// comment beside it says so.
package postgres
