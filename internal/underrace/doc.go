// Package underrace says whether the race detector is on, which makes seeded
// model tests many times slower: they run fewer seeds under it, and `make
// test` runs them whole without it. It is for tests only.
package underrace

// Fewer is n, or a tenth of it under the race detector.
func Fewer[T ~int | ~uint64](n T) T {
	if Enabled {
		return max(n/10, 1)
	}
	return n
}
