package testcontainers

import "runtime"

// thread runs functions on one operating-system thread of its own. Linux
// sends a child its parent-death signal when the *thread* that forked it ends,
// not the process, and Go may end a thread at any time. A server started here
// therefore lives exactly until close, or until this process dies in any way,
// SIGKILL included.
type thread struct{ work chan func() }

func newThread() *thread {
	t := &thread{work: make(chan func())}
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine
		for f := range t.work {
			f()
		}
	}()
	return t
}

// do runs f on the thread and waits for it.
func (t *thread) do(f func()) {
	done := make(chan struct{})
	t.work <- func() { defer close(done); f() }
	<-done
}

// close ends the thread; no do may run or follow.
func (t *thread) close() { close(t.work) }
