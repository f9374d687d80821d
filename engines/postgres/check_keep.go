package postgres

import (
	"fmt"
	"math"
	"time"

	"github.com/holdfastdb/holdfast/internal/repo"
)

const (
	// keepHours is what the recommended limit lasts for at the measured rate:
	// checkKeep demands one hour, and rates vary.
	keepHours = 3
	// keepLeast is the smallest limit recommended, in GB.
	keepLeast = 4
)

// checkKeep: how much log may the slot hold back while nobody streams? Without
// a limit a dead stream fills the primary's disk; with too small a one a short
// outage costs the slot, and a new base backup.
func checkKeep(i inspection) []repo.Finding {
	v := i.wal.fastest()
	perHour := v.perHour()
	rate := fmt.Sprintf("this server writes %s of log an hour (%.1f MB/h %s)", sizeText(int64(perHour)), perHour/(1<<20), v.How)
	if i.number("max_slot_wal_keep_size") < 0 {
		return finding(severityError, "slot-keep-unlimited",
			fmt.Sprintf("max_slot_wal_keep_size is unlimited: while nobody streams, slot %s can fill the server's disk (it holds back %s now); %s", i.slotName, inMiB(i.slot.Bytes), rate),
			keepSQL(perHour)+"  -- what the disk can spare: beyond it the slot is lost, and a new base backup needed")
	}
	// wal_keep_size holds log back too, for slots as for anybody (KeepLogSeg
	// in access/transam/xlog.c).
	limit := max(i.number("max_slot_wal_keep_size"), i.number("wal_keep_size")) << 20
	switch {
	case limit < 2*i.wal.Segment:
		return finding(severityError, "slot-keep-small",
			fmt.Sprintf("max_slot_wal_keep_size is %s, less than two WAL segments of %s: slot %s is lost at the first checkpoint that it is not ahead of; %s",
				sizeText(limit), sizeText(i.wal.Segment), i.slotName, rate),
			keepSQL(perHour)+"  -- and see that the disk has room for it")
	case float64(limit) < perHour:
		lasts := time.Duration(float64(limit) / perHour * float64(time.Hour))
		return finding(severityError, "slot-keep-small",
			fmt.Sprintf("max_slot_wal_keep_size is %s, and %s: it would last %s while nobody streams, less than an hour; then slot %s is lost, and a new base backup needed",
				sizeText(limit), rate, timeText(lasts), i.slotName),
			keepSQL(perHour)+"  -- and see that the disk has room for it")
	}
	return nil
}

func keepSQL(perHour float64) string {
	gb := max(keepLeast, int64(math.Ceil(perHour*keepHours/(1<<30))))
	return fmt.Sprintf("ALTER SYSTEM SET max_slot_wal_keep_size = '%dGB'; SELECT pg_reload_conf();", gb)
}
