package testcontainers

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// Auto makes the provider that tries the given ones in order (Docker, then
// local processes) and takes the first that has the server asked for.
// Spec.Provider narrows it to one. A fall-back is logged with its reason, and
// is in the sandbox's Fallback.
func Auto(log *slog.Logger, providers ...Provider) Provider {
	return &autoProvider{log: log, providers: providers}
}

// Fallen is a Sandbox that is not of the first choice.
type Fallen interface {
	// Fallback is why the providers tried before had no such server, nil if
	// the first one had.
	Fallback() error
}

type autoProvider struct {
	log       *slog.Logger
	providers []Provider
}

func (a *autoProvider) Name() string { return "auto" }

// Provision goes on to the next provider only where one says ErrMissing:
// anything else (a full disk, a bad directory) is the user's to know.
func (a *autoProvider) Provision(ctx context.Context, s Spec) (Sandbox, error) {
	var why []error
	known := false
	for _, p := range a.providers {
		if s.Provider != "" && s.Provider != p.Name() {
			continue
		}
		known = true
		box, err := p.Provision(ctx, s)
		if err == nil {
			reason := errors.Join(why...)
			if reason != nil {
				a.log.Info("falling back to another kind of sandbox", "provider", p.Name(), "reason", reason)
			}
			return withFallback(box, reason), nil
		}
		if !errors.Is(err, ErrMissing) {
			return nil, err
		}
		why = append(why, fmt.Errorf("%s: %w", p.Name(), err))
	}
	if !known {
		return nil, hferr.NewUsage("make a sandbox", fmt.Errorf("unknown provider %q", s.Provider), "use docker or process")
	}
	return nil, missing(s, why)
}

// missing keeps every provider's reason, and its hint.
func missing(s Spec, why []error) error {
	hint := ""
	for _, err := range why {
		if h := hferr.HintOf(err); h != "" {
			if hint != "" {
				hint += "\n"
			}
			hint += h
		}
	}
	return hferr.New("get a throwaway "+s.Engine+" "+s.Version, errors.Join(why...), hint)
}

type fallenSandbox struct {
	Sandbox
	reason error
}

func (f fallenSandbox) Fallback() error { return f.reason }

func (f fallenSandbox) KillAll(ctx context.Context) error {
	k, ok := f.Sandbox.(Killer)
	if !ok {
		return errors.New("this sandbox cannot kill its processes")
	}
	return k.KillAll(ctx)
}

func withFallback(box Sandbox, reason error) Sandbox { return fallenSandbox{box, reason} }
