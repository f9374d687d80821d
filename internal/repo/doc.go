// Package repo is the on-store format: keys and key slots, sealed objects,
// packs and frames, map blocks, manifests, log segments, branches, intents,
// leases.
// docs/FORMAT.md specifies it rule by rule; the code cites the rules (F1, …).
//
// It decides what bytes go under what key and when a thing exists; it does
// not cut, compress in parallel or schedule (stream), does not know what a log
// means (wal, engines) and reaches storage only through internal/blob. It is
// the only package that writes repository objects.
//
// From the bottom up: names (object keys), keyring and scope (keys derived
// from keys), header and frame (one sealed piece), encode (compression), seal
// (a stream of frames), document (JSON with a sealed part); on these stand
// pack, mapfile, manifest, segment, branch, note, lease, lineage; init, open and
// slots are the way in.
package repo
