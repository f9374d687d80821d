// Package docs holds the pages for people, and carries those a program needs:
// the format's specification, which every repository keeps a copy of.
package docs

import "embed"

//go:embed FORMAT.md
var pages embed.FS

// Format is FORMAT.md: how to read a repository without this program.
func Format() []byte {
	// The file is part of the build, so reading it cannot fail.
	body, _ := pages.ReadFile("FORMAT.md")
	return body
}
