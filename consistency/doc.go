// Package consistency is what makes a copy comparable with its source: the
// heartbeat (rows the tool writes at a known cadence by the source's own
// clock), what its presence and absence in a restored copy prove about loss,
// and, later, seals. It knows no SQL: an engine writes and reads the rows.
package consistency
