package wal

import (
	"bytes"
	"slices"
	"testing"
)

// A segment that fills costs few copies and ends in a buffer of exactly its
// size, which the next one gets.
func TestBuffersAreUsedAgain(t *testing.T) {
	const most = 1<<20 + 1234
	b := buffers{most: most}
	data, want := b.take(), []byte(nil)
	var caps []int
	for n := 0; len(data) < most; n++ {
		piece := bytes.Repeat([]byte{byte(n)}, min(50_000, most-len(data)))
		data = append(b.extend(data, len(piece)), piece...)
		want = append(want, piece...)
		if len(caps) == 0 || caps[len(caps)-1] != cap(data) {
			caps = append(caps, cap(data))
		}
	}
	if !bytes.Equal(data, want) {
		t.Error("a buffer that grew lost bytes")
	}
	if sizes := []int{64 << 10, 128 << 10, 256 << 10, 512 << 10, 1 << 20, most}; !slices.Equal(caps, sizes) {
		t.Errorf("it grew through %v, want %v", caps, sizes)
	}
	b.give(data)
	b.give(make([]byte, 10)) // not worth it
	b.give(make([]byte, firstBuffer))
	b.give(make([]byte, most)) // one too many
	if got := b.take(); len(got) != 0 || cap(got) != firstBuffer {
		t.Errorf("took %d of %d bytes, want the last that was kept", len(got), cap(got))
	}
	if got := b.take(); len(got) != 0 || cap(got) != most || &got[:1][0] != &data[0] {
		t.Error("the first buffer did not come back")
	}
	if got := b.take(); got != nil {
		t.Errorf("a third of %d bytes", cap(got))
	}
}
