package postgres

import (
	"context"

	"github.com/holdfastdb/holdfast/internal/repo"
)

func (s *source) Check(ctx context.Context) ([]repo.Finding, error) { return nil, nil }
