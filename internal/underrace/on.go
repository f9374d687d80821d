//go:build race

package underrace

// Enabled: the race detector is on.
const Enabled = true
