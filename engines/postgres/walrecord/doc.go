// Package walrecord walks PostgreSQL's write-ahead log, record by record, over
// a stream of its bytes. It does no I/O, keeps no more of a record than its
// header (the body only of the few kinds that Decode knows), and makes no
// garbage, so that it can run beside the stream that archives the log.
//
// The log is a sequence of blocks of 8 KiB in segments of usually 16 MiB, each
// block behind a header; records lie in the blocks one after the other,
// aligned to 8 bytes, and run on across blocks and segments (access/
// xlog_internal.h, access/xlogrecord.h, transam/xlogreader.c). Versions 13 to
// 18 of the server are known, by the magic number of their blocks.
//
// A Walker says where records are and that they are whole. It does not follow
// timelines: give it the log of a path as one stream of bytes.
package walrecord
