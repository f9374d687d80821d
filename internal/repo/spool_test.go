package repo

import (
	"bytes"
	"errors"
	"fmt"
	"testing"
)

// TestSpoolFrames: a frame opens at its own place of its own file alone, and
// nothing of it is in clear.
func TestSpoolFrames(t *testing.T) {
	t.Parallel()
	for _, encrypted := range []bool{true, false} {
		l := makeWorld(t, encrypted).l
		w, err := l.NewSpoolFile("a")
		if err != nil {
			t.Fatal(err)
		}
		for i, plain := range [][]byte{nil, text(700), text(9000), noise(1, MaxFrame)} {
			unit := uint32(i + 1)
			frame, err := w.Seal([]byte("kept"), unit, plain)
			if err != nil || string(frame[:4]) != "kept" {
				t.Fatal(err)
			}
			frame = frame[4:]
			if SpoolFrameSize(frame) != len(frame) || len(frame)%SpoolUnit != 0 || len(frame) > MaxSpoolFrame {
				t.Fatalf("%d bytes stored, %d stated", len(frame), SpoolFrameSize(frame))
			}
			if encrypted && len(plain) > 0 && bytes.Contains(frame, plain[:9]) {
				t.Error("plaintext in the file")
			}
			head := func(flip int) error {
				h, name := w.Header(), "b"
				if flip >= 0 {
					h[flip], name = h[flip]^1, "a"
				}
				_, err := l.OpenSpoolFile(h, name)
				return err
			}
			open := func(name string, unit uint32, frame []byte) error {
				r, err := l.OpenSpoolFile(w.Header(), name)
				if err != nil {
					t.Fatal(err)
				}
				got, err := r.Open(nil, unit, frame)
				if err == nil && !bytes.Equal(got, plain) {
					err = fmt.Errorf("%d bytes", len(got))
				}
				return err
			}
			if err := open("a", unit, frame); err != nil {
				t.Error(err)
			}
			other := func(unit uint32, frame []byte) error {
				b, err := l.NewSpoolFile("a")
				if err != nil {
					t.Fatal(err)
				}
				_, err = b.Open(nil, unit, frame)
				return err
			}
			flipped := bytes.Clone(frame)
			flipped[7] ^= 4
			for what, err := range map[string]error{
				"another place":         open("a", unit+1, frame),
				"another file":          other(unit, frame),
				"cut off":               open("a", unit, frame[:20]),
				"flipped":               open("a", unit, flipped),
				"salt flipped":          head(24),
				"another file's header": head(-1),
			} {
				if !errors.Is(err, ErrDamaged) {
					t.Errorf("%s: %v", what, err)
				}
			}
		}
	}
}
