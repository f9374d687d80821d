package file

// SetWindow makes listings hold only n names at a time.
func (s *Store) SetWindow(n int) { s.window = n }
