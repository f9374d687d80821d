package verify

import (
	"errors"
	"fmt"
	"os"

	"github.com/holdfastdb/holdfast/engines"
	"github.com/holdfastdb/holdfast/internal/hferr"
)

var errDisk = errors.New("not enough disk space")

// logRoom is what a recovering server may hold of its log and of temporary
// files beside its data: twice the usual checkpoint distance.
const logRoom = 2 << 30

// room checks the disk before anything is fetched: the data itself, a tenth
// more for what replay adds, and the log a server keeps while it replays.
func (d *drill) room(p *engines.RestorePlan) error {
	if st, err := os.Stat(d.q.WorkDir); err != nil || !st.IsDir() {
		return hferr.New("use the work directory "+d.q.WorkDir, errors.Join(errors.New("it must be an existing directory"), err), "create it, or name another")
	}
	span := int64(p.Log.To() - p.Log.From())
	if span < 0 || span > logRoom {
		span = logRoom
	}
	need := p.Base.Bytes + p.Base.Bytes/10 + span
	free, err := d.q.FreeSpace(d.q.WorkDir)
	if err != nil {
		return fmt.Errorf("ask for the free space of %s: %w", d.q.WorkDir, err)
	}
	d.rec.Host.NeedBytes, d.rec.Host.FreeBytes = need, free
	if free >= 0 && free < need {
		return hferr.New("restore into "+d.q.WorkDir, fmt.Errorf("%w: %s needed, %s free", errDisk, size(need), size(free)), "name a work directory on a larger disk")
	}
	return nil
}
