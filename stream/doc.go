// Package stream is bytes in motion: a base backup's items are cut into
// extents, hashed, framed, compressed, encrypted, packed and put; and on the
// way back planned by pack, fetched in coalesced ranges, verified and written
// in parallel. It holds the process's one byte budget, stall deadlines and
// progress.
//
// It knows nothing of databases (engines) and defines no stored bytes
// (internal/repo does).
//
// On the way out, bytes take these steps, one file each:
//
//	writer.go   Put reads an item into pooled 1 MiB buffers
//	worker.go   hashes each extent and compares it with the parent's (parent.go)
//	collect.go  gathers new extents of many items into frames
//	pack.go     fills packs, checks them (check.go) and puts them (stall.go)
//	cut.go      keeps what is known of a block of an item until its packs have names
//	mapper.go   writes finished blocks into map packs
//
// and on the way back:
//
//	blocks.go   reads blocks
//	plan.go     groups them into windows, and windows into ranged reads by pack
//	fetch.go    fetches, verifies and writes
//	restore.go  ties them together; dir.go is a directory as the target
package stream
