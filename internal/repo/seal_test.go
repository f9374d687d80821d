package repo

import (
	"runtime"
	"testing"
)

// A sealed body is made once, at about its size: with what it holds, a
// segment on its way takes twice its size in memory and not several times.
func TestSealingAllocatesTheBodyOnce(t *testing.T) { // not parallel: it counts all that is allocated
	l := makeLin(t, newStore())
	data := noise(1, 8*FrameSize)
	seal := func() int {
		body, err := l.keys.sealObject(typeSegment, "log/test", []byte("{}"), data)
		if err != nil {
			t.Fatal(err)
		}
		return len(body)
	}
	seal() // makes an encoder, which stays
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	size := seal()
	runtime.ReadMemStats(&after)
	// The body, the part of it before the first frame's size was known, and an
	// encoder, which the race detector makes the pool forget; grown by append
	// it is more than five times its size.
	if got, most := after.TotalAlloc-before.TotalAlloc, uint64(3*size); got > most {
		t.Errorf("%d bytes were allocated for a body of %d, want at most %d", got, size, most)
	}
}
