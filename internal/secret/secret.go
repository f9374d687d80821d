// Package secret holds values that must never be printed: passphrases and
// private keys. A Text prints, formats, logs and marshals as "[redacted]";
// only Reveal gives the value, so that every use can be found by name.
//
// It does not read files or the environment (internal/config does) and does
// not encrypt anything (internal/repo does).
package secret

import "log/slog"

// Redacted is what a Text shows wherever it is printed.
const Redacted = "[redacted]"

// Text is a secret string. The zero value is "no secret".
type Text struct{ value string }

// New wraps a secret value.
func New(v string) Text { return Text{value: v} }

// Reveal returns the value itself.
func (t Text) Reveal() string { return t.value }

// Empty reports whether there is no secret.
func (t Text) Empty() bool { return t.value == "" }

// String, GoString, LogValue, MarshalText hide the value.
func (t Text) String() string               { return Redacted }
func (t Text) GoString() string             { return Redacted }
func (t Text) LogValue() slog.Value         { return slog.StringValue(Redacted) }
func (t Text) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
