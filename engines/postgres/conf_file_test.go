package postgres

import (
	"os/exec"
	"strings"
	"testing"
)

func TestConfLines(t *testing.T) {
	for line, want := range map[string]confSetting{
		`a = 1`:                             {"a", "1"},
		`Work_Mem=4MB # comment`:            {"work_mem", "4MB"},
		`port 5433`:                         {"port", "5433"},
		`x = 'it''s \'here\' \\ \n\101' #c`: {"x", "it's 'here' \\ \nA"},
		`empty = ''`:                        {"empty", ""},
		`include_dir 'conf.d'`:              {"include_dir", "conf.d"},
		`my.ext_1 = on`:                     {"my.ext_1", "on"},
		"\t restore_command = 'cp %f'":      {"restore_command", "cp %f"},
	} {
		if got, ok := parseConfLine(line); !ok || got != want {
			t.Errorf("%s: %+v %v, want %+v", line, got, ok, want)
		}
	}
	for _, line := range []string{"", "# a = 1", "   ", "= 1", "a =", "a = 'open", "1a = 2"} {
		if got, ok := parseConfLine(line); ok {
			t.Errorf("%q: %+v, want nothing", line, got)
		}
	}
}

func FuzzConfValue(f *testing.F) {
	f.Add("it's", "a = 'b'")
	f.Add("back\\slash\nline\r'", "x")
	f.Fuzz(func(t *testing.T, value, line string) {
		parseConfLine(line)
		if strings.ContainsRune(value, 0) {
			return
		}
		text := confLine("name", value)
		if strings.Count(text, "\n") != 1 {
			t.Fatalf("%q makes more than one line: %q", value, text)
		}
		if got, ok := parseConfLine(strings.TrimSuffix(text, "\n")); !ok || got.Value != value {
			t.Fatalf("%q is written %q and read %q", value, text, got.Value)
		}
	})
}

// The command goes through the server's %-replacement and then through sh.
func TestShellCommandReachesTheProgramUnchanged(t *testing.T) {
	argv := []string{"printf", "%s\\n", "", "a b", "it's", `"$HOME"`, "100%", "%f", "`id`", "x;y|z&", "ü", "--a=/b.c", "*", "~", "!", "a\nb"}
	line, err := shellCommand(argv, "%f %p")
	if err != nil {
		t.Fatal(err)
	}
	line = strings.NewReplacer("%%", "%", "%f", "NAME", "%p", "PATH").Replace(line)
	out, err := exec.Command("sh", "-c", line).Output()
	if want := strings.Join(append(argv[2:], "NAME", "PATH"), "\n") + "\n"; err != nil || string(out) != want {
		t.Errorf("%s\nprints %q, %v\nwant   %q", line, out, err, want)
	}
	if _, err := shellCommand([]string{"a\x00b"}, ""); err == nil {
		t.Error("a NUL byte was accepted")
	}
}

func TestDropSettings(t *testing.T) {
	kept, dropped := dropSettings("# c\nwork_mem = '8MB'\nPrimary_ConnInfo = 'host=prod password=x'\nrecovery_target_xid = ''\nlast = 1", replacedSettings)
	if want := "# c\nwork_mem = '8MB'\nlast = 1\n"; kept != want || strings.Join(dropped, " ") != "primary_conninfo" {
		t.Errorf("kept %q, dropped %v", kept, dropped)
	}
}
