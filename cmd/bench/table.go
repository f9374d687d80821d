package main

import (
	"fmt"
	"io"
	"slices"
)

// peer is what ratios are taken against.
const peer = "pgbackrest zst:3"

// table prints medians with the spread of wall times, and ratios of medians.
func table(w io.Writer, tools []tool, results map[string][]measure) {
	fmt.Fprintln(w, "| tool | wall s, median [min–max] | client CPU s | server CPU s | repository MB | largest process MB | wall ÷ zst:3 | CPU ÷ zst:3 | bytes ÷ zst:3 |")
	fmt.Fprintln(w, "|---|---|---|---|---|---|---|---|---|")
	ref := results[peer]
	cpu := func(m measure) float64 { return m.client + m.server }
	size := func(m measure) float64 { return float64(m.bytes) / 1e6 }
	wall := func(m measure) float64 { return m.wall }
	for _, t := range tools {
		r := results[t.name]
		walls := values(r, wall)
		fmt.Fprintf(w, "| %s | %.2f [%.2f–%.2f] | %.2f | %.2f | %.0f | %.0f | %.2f | %.2f | %.3f |\n", t.name,
			median(r, wall), slices.Min(walls), slices.Max(walls),
			median(r, func(m measure) float64 { return m.client }), median(r, func(m measure) float64 { return m.server }),
			median(r, size), median(r, func(m measure) float64 { return float64(m.peak) / 1e6 }),
			median(r, wall)/median(ref, wall), median(r, cpu)/median(ref, cpu), median(r, size)/median(ref, size))
	}
}

func values(r []measure, of func(measure) float64) []float64 {
	out := make([]float64, len(r))
	for i, m := range r {
		out[i] = of(m)
	}
	return out
}

func median(r []measure, of func(measure) float64) float64 {
	v := values(r, of)
	slices.Sort(v)
	n := len(v)
	if n == 0 {
		return 0
	}
	if n%2 == 1 {
		return v[n/2]
	}
	return (v[n/2-1] + v[n/2]) / 2
}
