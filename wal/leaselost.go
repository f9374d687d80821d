package wal

import "errors"

// ErrLeaseLost: another writer has taken the log over.
var ErrLeaseLost = errors.New("another writer has taken the log over")
