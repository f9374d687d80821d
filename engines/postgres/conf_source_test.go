package postgres

import (
	"strings"
	"testing"

	"github.com/holdfastdb/holdfast/engines"
)

// TestConfFilesComeAsFarAsTheRoleMayRead: nothing without rights, the files
// themselves with them.
func TestConfFilesComeAsFarAsTheRoleMayRead(t *testing.T) {
	onMajors(t, func(t *testing.T, major string) {
		s := newSite(t, major, nil)
		files := func() map[string]ConfFile {
			t.Helper()
			res, err := s.source().Backup(t.Context(), engines.BackupOptions{Fast: true}, newMemorySink())
			if err != nil {
				t.Fatal(err)
			}
			d, err := ParseDetails(res.Details)
			if err != nil {
				t.Fatal(err)
			}
			out := map[string]ConfFile{}
			for _, f := range d.ConfFiles {
				out[f.Name] = f
			}
			return out
		}
		if got := files(); len(got) != 0 {
			t.Errorf("without rights: %+v", got)
		}
		s.apply(codes(t, s)["monitor-role"])
		got := files()
		hba := got["pg_hba.conf"]
		if len(got) != 3 || hba.From != "file" || !hba.Inside || !strings.Contains(hba.Content, "scram-sha-256") || !strings.HasSuffix(got["postgresql.conf"].Path, "/postgresql.conf") {
			t.Errorf("with rights: %+v", got)
		}
	})
}
