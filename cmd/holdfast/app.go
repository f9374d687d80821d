package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// Exit codes (DESIGN §8).
const (
	exitDone         = 0
	exitFailed       = 1
	exitUsage        = 2
	exitUnverifiable = 3
	exitFindings     = 4
)

// codeError ends a command with an exit code of its own; what there was to
// say has been printed.
type codeError int

func (c codeError) Error() string { return fmt.Sprintf("exit status %d", int(c)) }

// app is one invocation: its streams, environment and global flags.
type app struct {
	in       *os.File
	out, err *os.File
	env      config.Environment
	clock    func() time.Time
	flags    globalFlags
	log      *slog.Logger
}

// globalFlags are understood by every command.
type globalFlags struct {
	config         string
	repo           string
	passphraseFile string
	identityFile   string
	passwordFile   string
	name           string
	output         string
	verbose        bool
	memory         config.Size
	workers        int
}

func newApp(in, out, errw *os.File, env config.Environment) *app {
	return &app{in: in, out: out, err: errw, env: env, clock: time.Now}
}

// run executes a command line and returns the exit code.
func (a *app) run(ctx context.Context, args []string) int {
	root := a.root()
	root.SetArgs(args)
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitDone
	}
	var code codeError
	if errors.As(err, &code) {
		return int(code)
	}
	a.printError(ctx, err)
	if len(args) > 0 && args[0] == "fetch-log" {
		return exitAbort // a mistyped flag must not end a recovery early
	}
	switch {
	case hferr.KindOf(err) == hferr.Usage, isCobraUsage(err):
		return exitUsage
	case hferr.KindOf(err) == hferr.Unverifiable:
		return exitUnverifiable
	}
	return exitFailed
}

func (a *app) root() *cobra.Command {
	c := &cobra.Command{
		Use:   "holdfast",
		Short: "Backups of databases whose recovery is proven, not hoped for",
		Long: `Holdfast takes consistent base backups, streams the log into an encrypted
repository within seconds, restores to a chosen moment, and proves by regular
drills that it can: it measures RPO and RTO from restored data.

A database is named as in holdfast.yaml, or by a URL together with --repo.`,
		Example: `  holdfast init --repo file:///var/lib/holdfast --generate-passphrase-file holdfast.pass
  export HOLDFAST_REPO=file:///var/lib/holdfast HOLDFAST_PASSPHRASE_FILE=holdfast.pass
  holdfast backup postgres://holdfast@db1/postgres --name orders
  holdfast drill orders`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.setup() },
	}
	f := c.PersistentFlags()
	f.StringVar(&a.flags.config, "config", "", "configuration file (default: $HOLDFAST_CONFIG, ./holdfast.yaml, /etc/holdfast/holdfast.yaml)")
	f.StringVar(&a.flags.repo, "repo", "", "repository URL, e.g. file:///var/lib/holdfast (or $HOLDFAST_REPO)")
	f.StringVar(&a.flags.passphraseFile, "passphrase-file", "", "file with the repository's passphrase (or $HOLDFAST_PASSPHRASE_FILE, $HOLDFAST_PASSPHRASE)")
	f.StringVar(&a.flags.identityFile, "identity-file", "", "file with an age identity or the recovery key (or $HOLDFAST_IDENTITY_FILE)")
	f.StringVar(&a.flags.passwordFile, "password-file", "", "file with the database's password (or $PGPASSWORD, ~/.pgpass)")
	f.StringVar(&a.flags.name, "name", "", "name for a database given by URL (default: its host)")
	f.StringVar(&a.flags.output, "output", "text", "text or json")
	f.BoolVarP(&a.flags.verbose, "verbose", "v", false, "log what is being done")
	a.flags.memory = 128 << 20
	f.Var(&a.flags.memory, "memory", "bytes of buffers in flight, for the whole process")
	f.IntVar(&a.flags.workers, "workers", 0, "parallel workers (default: all cores)")
	c.AddCommand(a.initCommand(), a.checkCommand(), a.backupCommand(), a.streamCommand(), a.restoreCommand(),
		a.drillCommand(), a.statusCommand(), a.listCommand(), a.verifyCommand(), a.slotCommand(),
		a.fetchLogCommand(), a.versionCommand())
	return c
}

// setup runs before every command.
func (a *app) setup() error {
	if a.flags.output != "text" && a.flags.output != "json" {
		return hferr.NewUsage("--output "+a.flags.output, errors.New("want text or json"), "")
	}
	level := slog.LevelWarn
	if a.flags.verbose {
		level = slog.LevelInfo
	}
	a.log = slog.New(slog.NewTextHandler(a.err, &slog.HandlerOptions{Level: level}))
	return nil
}

func (a *app) json() bool { return a.flags.output == "json" }

// printJSON writes the one document of a command.
func (a *app) printJSON(v any) error {
	enc := json.NewEncoder(a.out)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

func (a *app) printf(format string, args ...any) { fmt.Fprintf(a.out, format, args...) }

// printError prints what, why and a hint.
func (a *app) printError(ctx context.Context, err error) {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		fmt.Fprintln(a.err, "holdfast: interrupted; nothing was half-committed")
		return
	}
	hint := hferr.HintOf(err)
	if a.flags.output == "json" {
		_ = a.printJSON(map[string]any{"error": map[string]string{"message": err.Error(), "hint": hint}})
	}
	fmt.Fprintf(a.err, "holdfast: %v\n", err)
	for line := range strings.Lines(hint) {
		fmt.Fprintf(a.err, "  hint: %s\n", strings.TrimRight(line, "\n"))
	}
}

// isCobraUsage recognises cobra's own errors about flags and arguments, which
// have no type.
func isCobraUsage(err error) bool {
	s := err.Error()
	for _, p := range []string{"unknown command", "unknown flag", "unknown shorthand", "accepts ", "requires ", "flag needs", "invalid argument", "required flag", "if any flags in the group", "at least one of the flags"} {
		if strings.HasPrefix(s, p) {
			return true
		}
	}
	return false
}

// terminal reports whether w is a terminal a person looks at.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}
