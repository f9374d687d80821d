package postgres

import (
	"encoding/json"
	"fmt"
)

// Details is what a base backup records for its restore: the engine's own
// document in the manifest (BackupResult.Details). Fields are only added.
type Details struct {
	Version        string `json:"version"`     // server_version, "15.18 (Debian 15.18-1)"
	VersionNum     int    `json:"version_num"` // server_version_num, 150018
	Platform       string `json:"platform,omitempty"`
	SystemID       string `json:"system_id"`
	StartTimeline  uint32 `json:"start_timeline"`
	StopTimeline   uint32 `json:"stop_timeline"`
	StartLSN       string `json:"start_lsn"` // "0/3000028"
	StopLSN        string `json:"stop_lsn"`
	WALSegmentSize int64  `json:"wal_segment_size"` // bytes
	BlockSize      int64  `json:"block_size"`       // bytes
	// Checksums says whether pages carry checksums; ChecksumsVerified whether
	// the server verified every page of this backup and found none bad.
	Checksums         bool `json:"checksums"`
	ChecksumsVerified bool `json:"checksums_verified"`
	// BootstrapUser is the superuser initdb made (oid 10): the one role that
	// surely exists in a copy and may do everything there.
	BootstrapUser string `json:"bootstrap_user"`
	DataDirectory string `json:"data_directory,omitempty"` // at the source; "" when the role may not see it
	// Tablespaces are outside PGDATA at the source; their files are stored as
	// items under "pg_tblspc/<oid>/".
	Tablespaces []Tablespace `json:"tablespaces,omitempty"`
	// Settings hold the source's values of what a copy must not set lower
	// (hot standby compares them) and of a few that a copy wants to know:
	// see copySettings.
	Settings map[string]string `json:"settings"`
	// ConfFiles are configuration files as far as the role may read them,
	// whether inside PGDATA (then also among the items) or outside.
	ConfFiles []ConfFile `json:"conf_files,omitempty"`
	// Databases, with locale and provider: a copy needs the same libraries.
	Databases []DatabaseInfo `json:"databases,omitempty"`
	// Extensions of the database we are connected to (others need a
	// connection each) and what shared_preload_libraries names.
	Extensions []Extension `json:"extensions,omitempty"`
	// ManifestVersion and ManifestFiles describe the server's own
	// backup_manifest, which is stored as the item "backup_manifest".
	ManifestFiles int `json:"manifest_files,omitempty"`
}

// Tablespace is one tablespace of a backup.
type Tablespace struct {
	OID      uint32 `json:"oid"`
	Location string `json:"location"` // absolute path at the source
	Items    int64  `json:"items"`    // stored under pg_tblspc/<oid>/
}

// ConfFile is one configuration file of the source.
type ConfFile struct {
	Name string `json:"name"` // "postgresql.conf", "pg_hba.conf", "pg_ident.conf", or an included file's base name
	Path string `json:"path"` // absolute path at the source
	// Content is the file's text. From says how it was got: "file" is the
	// file itself; "view" is reconstructed from the server's views, without
	// comments, because the role may not read files.
	Content string `json:"content"`
	From    string `json:"from"`
	// Inside says that the file lies in PGDATA and so is in the backup too.
	Inside bool `json:"inside"`
}

// DatabaseInfo is one database's locale.
type DatabaseInfo struct {
	Name             string `json:"name"`
	OID              uint32 `json:"oid"`
	Encoding         string `json:"encoding"`
	Collate          string `json:"collate"`
	Ctype            string `json:"ctype"`
	Provider         string `json:"provider,omitempty"` // "c" libc, "i" icu, "b" builtin; "" before 15
	CollationVersion string `json:"collation_version,omitempty"`
	Size             int64  `json:"size,omitempty"` // bytes; 0 when the role may not know
}

// Extension is an installed extension.
type Extension struct {
	Database string `json:"database"`
	Name     string `json:"name"`
	Version  string `json:"version"`
}

// ParseDetails reads a manifest's Details.
func ParseDetails(b []byte) (*Details, error) {
	var d Details
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("details of a PostgreSQL backup: %w", err)
	}
	if d.VersionNum < minVersionNum {
		return nil, fmt.Errorf("details of a PostgreSQL backup: version_num %d", d.VersionNum)
	}
	if !isPowerOfTwo(d.WALSegmentSize) || d.WALSegmentSize < 1<<20 || d.WALSegmentSize > 1<<30 {
		return nil, fmt.Errorf("details of a PostgreSQL backup: wal_segment_size %d", d.WALSegmentSize)
	}
	return &d, nil
}

// Major is the major version as package and image names have it: "15".
func (d *Details) Major() string { return fmt.Sprint(d.VersionNum / 10000) }

// minVersionNum: 13 is the oldest with a backup manifest.
const minVersionNum = 130000

// copySettings are the settings Details.Settings holds. The first five are
// what hot standby compares with the primary's (manual, "Hot Standby",
// Administrator's Overview): a copy with a lower value refuses to recover.
var copySettings = []string{
	"max_connections",
	"max_worker_processes",
	"max_wal_senders",
	"max_prepared_transactions",
	"max_locks_per_transaction",
	"shared_preload_libraries",
	"wal_level",
	"server_encoding",
	"lc_messages",
	"TimeZone",
	"track_commit_timestamp",
	"huge_pages",
	"data_checksums",
	"wal_log_hints",
	"full_page_writes",
}

func isPowerOfTwo(n int64) bool { return n > 0 && n&(n-1) == 0 }
