package testcontainers

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/holdfastdb/holdfast/internal/hferr"
)

// account is the user that servers run as.
type account struct {
	name   string
	uid    uint32
	gid    uint32
	groups []uint32
	self   bool // it is us: no credentials need changing
}

// serverAccount returns ourselves, or, when we are root, the first of names
// that exists: database servers refuse to run as root, and a throwaway copy of
// production data has no business with root's powers.
func serverAccount(names []string) (account, error) {
	if os.Geteuid() != 0 {
		a := account{name: strconv.Itoa(os.Geteuid()), uid: uint32(os.Geteuid()), gid: uint32(os.Getegid()), self: true}
		if u, err := user.LookupId(a.name); err == nil {
			a.name = u.Username
		}
		return a, nil
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		return accountOf(u)
	}
	return account{}, hferr.New("choose a user for the throwaway server",
		fmt.Errorf("running as root, and none of these users exists: %s", strings.Join(names, ", ")),
		"create one of them (useradd --system "+names[0]+"), or run holdfast as an ordinary user")
}

func accountOf(u *user.User) (account, error) {
	ids := []string{u.Uid, u.Gid}
	groups, err := u.GroupIds()
	if err != nil {
		groups = []string{u.Gid} // a directory service that does not answer must not stop a drill
	}
	var nums []uint32
	for _, s := range append(ids, groups...) {
		n, err := strconv.ParseUint(s, 10, 32)
		if err != nil {
			return account{}, fmt.Errorf("user %s has the odd id %q: %w", u.Username, s, err)
		}
		nums = append(nums, uint32(n))
	}
	return account{name: u.Username, uid: nums[0], gid: nums[1], groups: nums[2:]}, nil
}

// credential is what a child process changes to, nil for none.
func (a account) credential() *syscall.Credential {
	if a.self {
		return nil
	}
	return &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
}

// canEnter returns an error if the account may not walk to dir.
func (a account) canEnter(dir string) error {
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		info, err := os.Stat(d)
		if err != nil {
			return err
		}
		if st, ok := info.Sys().(*syscall.Stat_t); ok && !a.mayPass(info.Mode().Perm(), st) {
			return hferr.NewUsage("use "+dir+" for a throwaway server",
				fmt.Errorf("user %s, which the server runs as, may not enter %s (mode %04o)", a.name, d, info.Mode().Perm()),
				"choose another directory, such as one under "+os.TempDir()+", or chmod o+x "+d)
		}
		if d == filepath.Dir(d) {
			return nil
		}
	}
}

func (a account) mayPass(mode os.FileMode, st *syscall.Stat_t) bool {
	if st.Uid == a.uid {
		return mode&0o100 != 0
	}
	for _, g := range append([]uint32{a.gid}, a.groups...) {
		if st.Gid == g {
			return mode&0o010 != 0
		}
	}
	return mode&0o001 != 0
}
