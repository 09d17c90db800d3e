package storage

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// room caches the free space of the disk.
type room struct {
	mu   sync.Mutex
	at   time.Time
	free int64
}

// roomAge is how long a figure of the disk is believed.
const roomAge = time.Second

// freeBytes returns what an ordinary user may still write to the disk of dir.
func (r *room) freeBytes(dir string) (int64, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if now := time.Now(); r.at.IsZero() || now.Sub(r.at) > roomAge {
		var st unix.Statfs_t
		if err := unix.Statfs(dir, &st); err != nil {
			return 0, fmt.Errorf("asking for free disk space: %w", err)
		}
		r.at, r.free = now, int64(st.Bavail)*int64(st.Bsize)
	}
	return r.free, nil
}

// Room returns [ErrFull] when n more bytes of values may not be accepted: the
// store would pass 90 % of Options.MaxBytes, or leave less than Options.MinFree
// of disk. Reads, deletes and Commits go on all the same: who accepts new
// things asks first. It returns [ErrStopped] when the store has stopped.
func (db *DB) Room(n int) error {
	if err := db.Err(); err != nil {
		return err
	}
	if limit := db.opts.MaxBytes / 10 * 9; db.opts.MaxBytes > 0 && db.pages.Load()*pageSize+int64(n) > limit {
		return fmt.Errorf("%w: 90 %% of the configured size is used", ErrFull)
	}
	free, err := db.room.freeBytes(db.dir)
	if err != nil {
		return err
	}
	if free-int64(n) < db.opts.MinFree {
		return fmt.Errorf("%w: the disk is nearly full", ErrFull)
	}
	return nil
}
