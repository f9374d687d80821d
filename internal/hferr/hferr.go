// Package hferr is the shape of every error a person sees: what failed, why,
// and what to do. Packages below return ordinary wrapped errors; where a user
// can act, they wrap with E, and cmd prints the hint on its own line.
//
// It holds no error values of its own: each package types its own failures.
package hferr

import "errors"

// Kind sorts errors by the exit code they lead to (DESIGN §8).
type Kind int

const (
	Failed       Kind = iota // exit 1: the work was tried and failed
	Usage                    // exit 2: bad flags or configuration, nothing was tried
	Unverifiable             // exit 3: could not verify
)

// E is an error with a hint. What is a short clause without a full stop
// ("take a base backup of orders"); Err is the cause; Hint says what to do,
// in the imperative, and may hold several lines (SQL, commands).
type E struct {
	Kind Kind
	What string
	Err  error
	Hint string
}

// New makes a failure with a hint.
func New(what string, err error, hint string) *E {
	return &E{Kind: Failed, What: what, Err: err, Hint: hint}
}

// NewUsage makes a usage or configuration error with a hint.
func NewUsage(what string, err error, hint string) *E {
	return &E{Kind: Usage, What: what, Err: err, Hint: hint}
}

func (e *E) Error() string {
	if e.Err == nil {
		return e.What
	}
	if e.What == "" {
		return e.Err.Error()
	}
	return e.What + ": " + e.Err.Error()
}

func (e *E) Unwrap() error { return e.Err }

// HintOf returns the outermost non-empty hint in err's chain.
func HintOf(err error) string {
	for e := (*E)(nil); errors.As(err, &e); err = e.Err {
		if e.Hint != "" {
			return e.Hint
		}
	}
	return ""
}

// KindOf returns the outermost kind in err's chain, Failed when there is none.
func KindOf(err error) Kind {
	if e := (*E)(nil); errors.As(err, &e) {
		return e.Kind
	}
	return Failed
}
