package wal

// buffers lends the memory of segments. A stream at full speed would
// otherwise leave a segment's worth of garbage behind each, several times if
// it grew by append.
type buffers struct {
	most int // bytes of a full segment
	free [][]byte
}

const (
	// freeBuffers is how many are kept: one to receive into while another
	// comes back.
	freeBuffers = 2
	firstBuffer = 64 << 10
)

// take returns an empty buffer, nil if there is none.
func (b *buffers) take() []byte {
	n := len(b.free)
	if n == 0 {
		return nil
	}
	out := b.free[n-1]
	b.free[n-1] = nil
	b.free = b.free[:n-1]
	return out[:0]
}

// give takes back what nobody looks at any more.
func (b *buffers) give(data []byte) {
	if cap(data) >= firstBuffer && len(b.free) < freeBuffers {
		b.free = append(b.free, data)
	}
}

// extend makes room for n more bytes: it doubles, and ends at exactly a full
// segment.
func (b *buffers) extend(data []byte, n int) []byte {
	need := len(data) + n
	if need <= cap(data) {
		return data
	}
	size := max(need, min(b.most, max(2*cap(data), firstBuffer)))
	return append(make([]byte, 0, size), data...)
}
