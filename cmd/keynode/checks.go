package main

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"keymesh/api/apitype"
	"keymesh/mesh"
)

// renewFrom is how long before its end a certificate is renewed; one that is
// nearer to its end than half of this has not been renewed when it should.
const renewFrom = 30 * 24 * time.Hour

// checks are what the node found out about itself, each with its fix.
func (d *daemon) checks(st mesh.Status, issuers int) []apitype.Check {
	out := []apitype.Check{
		d.checkClock(st), d.checkTwins(st), d.checkCertificate(st), d.checkIssuers(issuers), d.checkUnlock(), d.checkStore(), checkMemory(),
	}
	if text := d.restoring.Load(); text != nil {
		out = append(out, found("restore", apitype.LevelWarn, *text, "leave the node running; its log says what a secret waits for"))
	}
	if text := d.rotating.Load(); text != nil {
		out = append(out, found("rotate", apitype.LevelWarn, *text, "leave the node running; its log says what a secret waits for"))
	}
	return out
}

func found(name, level, text, fix string) apitype.Check {
	return apitype.Check{Name: name, Level: level, Text: text, Fix: fix}
}

func (d *daemon) checkClock(st mesh.Status) apitype.Check {
	if st.Clock != "" {
		return found("clock", apitype.LevelBad, st.Clock, "set this machine's clock, and keep it set with NTP")
	}
	return found("clock", apitype.LevelOK, "the clock agrees with the peers", "")
}

// checkTwins: one key belongs to one process and one disk.
func (d *daemon) checkTwins(st mesh.Status) apitype.Check {
	if st.Twin {
		return found("identity", apitype.LevelBad, "another process runs with this node's key", "stop one of the two for ever: a copied data directory is no second node; a second node needs keynode init and a ticket")
	}
	for _, m := range d.node.Members() {
		if m.Twin {
			return found("identity", apitype.LevelBad, fmt.Sprintf("two processes run with the key of %s", m.Name), "ask its operator to stop one of them")
		}
	}
	if st.RolledBack {
		text := "peers know later records of this node than its disk does: the data directory is an older copy"
		if n := d.keys.Recalling(); n > 0 {
			text += fmt.Sprintf("; it signs nothing of %d secrets before other holders have told what it missed", n)
		}
		return found("identity", apitype.LevelWarn, text, "if the newer one still exists, stop this node and use that; else leave it running, it catches up")
	}
	return found("identity", apitype.LevelOK, "one process runs with this node's key", "")
}

func (d *daemon) checkCertificate(st mesh.Status) apitype.Check {
	left := time.Until(d.node.Self().CertExpires)
	switch {
	case st.Revoked:
		return found("certificate", apitype.LevelBad, "this node has been revoked", "its seats have to be placed elsewhere; a new node needs new keys and a ticket")
	case st.Lapsed:
		return found("certificate", apitype.LevelBad, "this node's certificate has expired: it can neither place nor be placed", "bring an issuer online; renewal then happens by itself")
	case left < renewFrom/2:
		return found("certificate", apitype.LevelWarn, fmt.Sprintf("this node's certificate ends in %d days and has not been renewed", int(left.Hours()/24)), "bring an issuer online; renewal then happens by itself")
	}
	return found("certificate", apitype.LevelOK, fmt.Sprintf("this node's certificate is good for %d days", int(left.Hours()/24)), "")
}

func (d *daemon) checkIssuers(n int) apitype.Check {
	if n < 2 {
		return found("issuers", apitype.LevelWarn, fmt.Sprintf("the network has %d issuer; if it is lost nobody can be admitted or renewed without the network's seed", n), "keep the seed that keynode init printed; a second issuer comes with a later version")
	}
	return found("issuers", apitype.LevelOK, fmt.Sprintf("the network has %d issuers", n), "")
}

func (d *daemon) checkUnlock() apitype.Check {
	if d.id.Unlock().Clear() {
		return found("unlock", apitype.LevelWarn, "this node's keys lie in clear on its disk (unlock none)", "for real secrets make the node with --unlock prompt, file:PATH or credential:NAME")
	}
	return found("unlock", apitype.LevelOK, "this node's keys are sealed on its disk", "")
}

func (d *daemon) checkStore() apitype.Check {
	if err := d.db.Err(); err != nil {
		return found("store", apitype.LevelBad, "the store has stopped: "+err.Error(), "look at the disk, then restart the node")
	}
	if n := d.db.Stats().Corrupt; n > 0 {
		return found("store", apitype.LevelBad, fmt.Sprintf("%d records of the store are damaged", n), "look at the disk; the other holders still have their rows")
	}
	if d.keys.Closed() {
		return found("store", apitype.LevelWarn, "this node is being drained: it takes no new seats", "keyctl peer drain "+d.id.Name+" --undo lets it have seats again")
	}
	if err := d.db.Room(0); err != nil {
		return found("store", apitype.LevelWarn, "the store accepts nothing more: "+err.Error(), "make room on the disk or raise storage_max")
	}
	return found("store", apitype.LevelOK, "the store is sound", "")
}

// checkMemory asks the kernel, not this program's intentions.
func checkMemory() apitype.Check {
	var core unix.Rlimit
	dumpable, err := unix.PrctlRetInt(unix.PR_GET_DUMPABLE, 0, 0, 0, 0)
	if err == nil {
		err = unix.Getrlimit(unix.RLIMIT_CORE, &core)
	}
	if err != nil || dumpable != 0 || core.Cur != 0 {
		return found("memory", apitype.LevelBad, "other processes of this user can read the node's memory", "run the node with keynode run, which forbids it")
	}
	return found("memory", apitype.LevelOK, "no core dumps, and no other process of this user can read the node's memory", "")
}
