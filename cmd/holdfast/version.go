package main

import (
	"runtime"

	"github.com/holdfastdb/holdfast/internal/repo"
	"github.com/spf13/cobra"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version, the repository format and the platform",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if a.json() {
				return a.printJSON(map[string]any{"version": version(), "format": repo.Format, "go": runtime.Version(), "platform": runtime.GOOS + "/" + runtime.GOARCH})
			}
			a.printf("holdfast %s (repository format %d draft, %s, %s/%s)\n", version(), repo.Format, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return nil
		},
	}
}
