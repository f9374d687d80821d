package main

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/holdfastdb/holdfast/internal/config"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/holdfastdb/holdfast/internal/secret"
	"golang.org/x/term"
)

// keyReference finds what the user gave to open the repository with: flags,
// then the environment, then the configuration.
func (a *app) keyReference(f *config.File) config.Key {
	if a.flags.passphraseFile != "" || a.flags.identityFile != "" {
		return config.Key{PassphraseFile: a.flags.passphraseFile, IdentityFile: a.flags.identityFile}
	}
	if v, ok := a.env("HOLDFAST_PASSPHRASE_FILE"); ok && v != "" {
		return config.Key{PassphraseFile: v}
	}
	if v, ok := a.env("HOLDFAST_PASSPHRASE"); ok && v != "" {
		return config.Key{PassphraseEnv: "HOLDFAST_PASSPHRASE"}
	}
	if v, ok := a.env("HOLDFAST_IDENTITY_FILE"); ok && v != "" {
		return config.Key{IdentityFile: v}
	}
	return f.Repository.Key
}

// unlock resolves the key; config.ErrNoSecret where none was given.
func (a *app) unlock(f *config.File) (repo.Unlock, error) {
	k, err := a.keyReference(f).Resolve(a.env)
	return repo.Unlock{Passphrase: k.Passphrase, Identity: k.Identity}, err
}

// askKey asks for the passphrase at a terminal.
func (a *app) askKey() (repo.Unlock, error) {
	p, err := a.prompt("Passphrase of the repository: ")
	return repo.Unlock{Passphrase: p}, err
}

// prompt asks for a secret without echo. Only a terminal can answer.
func (a *app) prompt(text string) (secret.Text, error) {
	if !term.IsTerminal(int(a.in.Fd())) {
		return secret.Text{}, hferr.NewUsage("open the repository", config.ErrNoSecret,
			"use --passphrase-file, $HOLDFAST_PASSPHRASE_FILE, $HOLDFAST_PASSPHRASE, --identity-file, or repository.key in holdfast.yaml")
	}
	fmt.Fprint(a.err, text)
	b, err := term.ReadPassword(int(a.in.Fd()))
	fmt.Fprintln(a.err)
	return secret.New(string(b)), err
}

// promptNew asks for a new passphrase twice.
func (a *app) promptNew() (secret.Text, error) {
	p, err := a.prompt("New passphrase for this repository: ")
	if err != nil {
		return p, err
	}
	if len(p.Reveal()) < 12 {
		return p, hferr.NewUsage("choose a passphrase", errors.New("shorter than 12 characters"), "or let --generate-passphrase-file make one")
	}
	again, err := a.prompt("Again: ")
	if err == nil && again != p {
		err = hferr.NewUsage("choose a passphrase", errors.New("the two differ"), "")
	}
	return p, err
}

// generatePassphrase makes a passphrase of 160 bits and keeps it in a new
// file of mode 0600; an existing file is never touched.
func generatePassphrase(path string) (secret.Text, error) {
	raw := make([]byte, 20)
	if _, err := rand.Read(raw); err != nil {
		return secret.Text{}, err
	}
	p := strings.ToLower(base32.StdEncoding.EncodeToString(raw))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return secret.Text{}, hferr.NewUsage("write the new passphrase", err, "name a file that does not exist yet; to use one that does, give --passphrase-file")
	}
	_, werr := f.WriteString(p + "\n")
	return secret.New(p), errors.Join(werr, f.Sync(), f.Close())
}
