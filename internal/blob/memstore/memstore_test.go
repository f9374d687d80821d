package memstore

import (
	"testing"
	"time"

	"github.com/holdfastdb/holdfast/internal/blob"
	"github.com/holdfastdb/holdfast/internal/blob/blobtest/suite"
)

func TestConformance(t *testing.T) {
	suite.Test(t, func(*testing.T) blob.Store { return New(time.Now) })
}
