package main

import (
	"context"
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
	"github.com/spf13/cobra"
)

func (a *app) slotCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "slot",
		Short: "What we left on a server: list it, drop it",
		Args:  cobra.NoArgs,
	}
	c.AddCommand(&cobra.Command{
		Use:   "list DB|URL",
		Short: "List the server's slots and what they hold back",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSource(cmd.Context(), args[0], func(ctx context.Context, _ target, s engines.Source) error { return a.slotList(ctx, s) })
		},
	}, &cobra.Command{
		Use:   "drop DB|URL [NAME]",
		Short: "Drop our slot: the server then keeps no log for us",
		Args:  cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.withSource(cmd.Context(), args[0], func(ctx context.Context, t target, s engines.Source) error {
				return a.slotDrop(ctx, t, s, args[1:])
			})
		},
	})
	return c
}

// withSource connects to one database without opening the repository.
func (a *app) withSource(ctx context.Context, arg string, fn func(context.Context, target, engines.Source) error) error {
	cfg, err := a.configFile()
	if err != nil {
		return err
	}
	t, err := a.resolve(cfg, arg)
	if err != nil {
		return err
	}
	_, s, err := a.connect(ctx, t)
	if err != nil {
		return err
	}
	defer s.Close()
	return fn(ctx, t, s)
}

func (a *app) slotList(ctx context.Context, s engines.Source) error {
	all, err := s.Log().Retained(ctx)
	if err != nil {
		return err
	}
	if a.json() {
		return a.printJSON(map[string]any{"slots": all})
	}
	w := tabwriter.NewWriter(a.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "NAME\tKIND\tACTIVE\tSTATE\tHOLDS BACK\tOURS")
	for _, r := range all {
		fmt.Fprintf(w, "%s\t%s\t%t\t%s\t%s\t%t\n", r.Name, r.Kind, r.Active, r.State, size(r.Bytes), r.Ours)
	}
	return w.Flush()
}

func (a *app) slotDrop(ctx context.Context, t target, s engines.Source, names []string) error {
	if len(names) == 0 {
		all, err := s.Log().Retained(ctx)
		if err != nil {
			return err
		}
		for _, r := range all {
			if r.Ours {
				names = append(names, r.Name)
			}
		}
	}
	if len(names) == 0 {
		return hferr.New("drop the slot of "+t.name, errors.New("there is none of ours on this server"), "holdfast slot list shows what there is")
	}
	for _, n := range names {
		if err := s.Log().Release(ctx, n); err != nil {
			return err
		}
		if !a.json() {
			a.printf("dropped %s\n", n)
		}
	}
	if a.json() {
		return a.printJSON(map[string]any{"dropped": names})
	}
	return nil
}
