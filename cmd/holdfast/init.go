package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/holdfastdb/holdfast/internal/blob/blobtest"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/spf13/cobra"
)

type initFlags struct {
	generate    string
	recipients  []string
	unencrypted bool
}

func (a *app) initCommand() *cobra.Command {
	var fl initFlags
	c := &cobra.Command{
		Use:   "init",
		Short: "Create a repository and its keys; probe the store",
		Long: `Creates a repository: probes the store with the conformance suite its drivers
are tested with, makes the keys, and prints the recovery key once. Keep the
recovery key off this host: it opens the repository when the passphrase is lost.`,
		Example: `  holdfast init --repo file:///var/lib/holdfast --generate-passphrase-file holdfast.pass
  holdfast init --repo file:///mnt/backups --recipient age1…`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return a.runInit(cmd, fl) },
	}
	f := c.Flags()
	f.StringVar(&fl.generate, "generate-passphrase-file", "", "make a passphrase and keep it in this new file (mode 0600)")
	f.StringSliceVar(&fl.recipients, "recipient", nil, "age recipient instead of a passphrase; may be repeated")
	f.BoolVar(&fl.unencrypted, "unencrypted", false, "store everything in clear (tamper-evident, but readable by whoever reads the store)")
	return c
}

func (a *app) runInit(cmd *cobra.Command, fl initFlags) error {
	ctx := cmd.Context()
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	raw, err := a.repoURL(cfg)
	if err != nil {
		return err
	}
	st, err := createStore(raw)
	if err != nil {
		return err
	}
	results := blobtest.Run(ctx, st, "probe")
	if !a.json() {
		for _, r := range results {
			a.printf("  %-4s %s%s\n", map[bool]string{true: "ok", false: "FAIL"}[r.OK], r.Name, suffix(" — ", r.Detail))
		}
	}
	if err := blobtest.Err(results); err != nil {
		return hferr.New("probe the store "+raw, err, "this store would not keep what a repository relies on; no repository was made")
	}
	o := repo.InitOptions{
		Options:    repo.Options{Log: a.log, Clock: a.clock},
		Recipients: fl.recipients, Unencrypted: fl.unencrypted,
		Capabilities: st.Capabilities(), Tool: "holdfast " + version(),
	}
	if o.Probe, err = json.Marshal(results); err != nil {
		return err
	}
	if err := a.initKey(fl, &o); err != nil {
		return err
	}
	r, recovery, err := repo.Init(ctx, st, o)
	if errors.Is(err, repo.ErrExists) {
		return hferr.New("create a repository at "+raw, err, "it was left as it is; use it, or name another place")
	}
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"repository": raw, "id": r.Info().ID, "encrypted": r.Info().Encrypted, "recovery_key": recovery.Reveal(), "probe": results})
	}
	a.printf("\nRepository %s made at %s\n", r.Info().ID, raw)
	if fl.generate != "" {
		a.printf("Passphrase kept in %s\n", fl.generate)
	}
	if !recovery.Empty() {
		a.printf("\nRecovery key, shown this once — keep it off this host:\n\n  %s\n\n", recovery.Reveal())
	}
	return nil
}

// initKey takes the user's slot from flags, environment, configuration or a prompt.
func (a *app) initKey(fl initFlags, o *repo.InitOptions) error {
	if fl.unencrypted || len(fl.recipients) > 0 {
		return nil
	}
	if fl.generate != "" {
		p, err := generatePassphrase(fl.generate)
		o.Passphrase = p
		return err
	}
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	ref := a.keyReference(cfg)
	if ref.PassphraseFile == "" && ref.PassphraseEnv == "" {
		o.Passphrase, err = a.promptNew()
		return err
	}
	k, err := ref.Resolve(a.env)
	o.Passphrase = k.Passphrase
	return err
}

func suffix(sep, s string) string {
	if s == "" {
		return ""
	}
	return fmt.Sprint(sep, s)
}
