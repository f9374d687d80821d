package engines

import "errors"

// ErrNeedsServer is what Restorer.Load answers to a request without a sandbox
// when its bases can only be loaded through a running server (a logical dump,
// raw documents). restore then makes a sandbox of local processes around the
// target directory, runs Load and Replay in it and closes the copy; what it
// leaves is the finished directory, for which Configure only says how to
// start it. A physical engine never answers it.
var ErrNeedsServer = errors.New("this base can only be loaded through a server")

// PermanentError marks a failure that trying again cannot mend: another
// history, log that is gone, a server that is too old. A caller that retries
// (stream, run) stops at it; every other error from a running Tail, Backup or
// Connect may be retried with back-off.
type PermanentError struct{ Err error }

func (e *PermanentError) Error() string { return e.Err.Error() }
func (e *PermanentError) Unwrap() error { return e.Err }

// Permanent marks err; nil stays nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return &PermanentError{Err: err}
}

// IsPermanent reports whether err is marked.
func IsPermanent(err error) bool {
	var p *PermanentError
	return errors.As(err, &p)
}
