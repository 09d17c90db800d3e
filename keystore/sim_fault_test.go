package keystore

import (
	"fmt"
	"testing"
	"testing/synctest"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// simFault is a fault planted around the real steps: the check of the check.
type simFault struct {
	replace  bool // a new PREPARE replaces a pending one
	early    bool // the row before goes with the promise of the next
	lateSync bool // the receipt leaves before its step is on the disk
	spoilt   bool // a holder takes a row without its commitment
	anyRow   bool // a reader takes a row without its commitment
	anyX     bool // a reader takes the x that it is told
	untold   bool // prev's seats are not told
	noRow    bool // a seat commits without its row
	forgets  bool // who gives up a seat forgets the certificate
	fewDead  bool // n-w+1 refusals are taken for death
}

// poll is a poll with the fault that concerns it.
func (f *simFault) poll(p *poll) *poll {
	if f.fewDead {
		for i := range p.groups {
			m := p.groups[i].m
			p.groups[i].dead = m.N() - int(m.W) + 1
		}
	}
	return p
}

// prepare is secretState.prepare with the faults that concern it.
func (f *simFault) prepare(n *simNode, s *secretState, facts holderFacts, p prepareMsg) stepResult {
	r := s.prepare(facts, p)
	if f.replace && r.outcome == custody.Conflict && len(s.live()) > 0 {
		c := s.clone()
		var w writes
		for _, e := range c.pending {
			w.drop(e)
		}
		c.pending = nil
		if again := c.prepare(facts, p); again.outcome == custody.OK {
			again.writes = append(w.list, again.writes...)
			return again
		}
	}
	if f.spoilt && r.outcome == custody.Refused && p.m.SeatOf(n.id) != nil {
		good := p
		good.row = n.s.byHash[p.m.Hash].rows[n.id]
		if again := s.prepare(facts, good); again.outcome == custody.OK {
			for i, rec := range again.writes {
				if rec.Place.Bucket == share.BucketRow && rec.Place.Sub == p.m.Hash && rec.Value != nil {
					again.writes[i].Value = p.row
				}
			}
			return again
		}
	}
	if f.early && r.outcome == custody.OK && r.next != nil && r.next.committed != nil && r.next.committed.row {
		var w writes
		w.drop(r.next.committed)
		r.writes = append(r.writes, w.list...)
		r.next.committed = r.next.committed.hollow(false)
	}
	return r
}

// commit is secretState.commit with the faults that concern it.
func (f *simFault) commit(n *simNode, s *secretState, facts holderFacts, c commitMsg) stepResult {
	r := s.commit(facts, c)
	if f.noRow && r.outcome == custody.Refused && r.next != nil && r.next.kept != nil && r.next.kept.Hash == c.of.Hash {
		e := *r.next.kept
		e.x = e.SeatOf(n.id).X
		w := writes{r.writes}
		r.next.kept = nil
		r.next.retire(&e, 0, false, &w)
		r.next.committed = &e
		r.writes, r.outcome, r.sign, r.prevGone = w.list, custody.OK, e.receipt(), true
	}
	if f.forgets && r.next != nil && r.next.kept != nil && r.next.kept.SeatOf(n.id) == nil {
		r.next.kept = nil
	}
	return r
}

// targets are whom a holder tells of a certificate.
func (f *simFault) targets(e *stored, self key.NodeID) []key.NodeID {
	all := e.targets(self)
	if !f.untold {
		return all
	}
	var out []key.NodeID
	for _, id := range all {
		if !f.skips(&e.Manifest, id) {
			out = append(out, id)
		}
	}
	return out
}

// skips reports whether a node is left out that is a seat of prev alone.
func (f *simFault) skips(m *share.Manifest, id key.NodeID) bool {
	return f.untold && m.SeatOf(id) == nil
}

// TestPlantedFaults: each fault is found within the schedules that
// [TestSimulation] runs.
func TestPlantedFaults(t *testing.T) {
	for _, c := range []struct {
		what  string
		fault simFault
	}{
		{"pending replaced", simFault{replace: true}},
		{"old row deleted before the new is certified", simFault{early: true}},
		{"receipt before fsync", simFault{lateSync: true}},
		{"commitment unchecked by a holder", simFault{spoilt: true}},
		{"commitment unchecked by a reader", simFault{anyRow: true}},
		{"x unchecked", simFault{anyX: true}},
		{"prev's seats not told", simFault{untold: true}},
		{"a seat commits without its row", simFault{noRow: true}},
		{"who gives up a seat forgets the certificate", simFault{forgets: true}},
		{"n-w+1 refusals taken for death", simFault{fewDead: true}},
	} {
		t.Run(c.what, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				w := simWorld(t)
				for seed := uint64(1); seed <= simSchedules; seed++ {
					if _, err := simRun(w, seed, c.fault, false); err != nil {
						t.Logf("found by schedule %d: %.300s", seed, fmt.Sprint(err))
						return
					}
				}
				t.Errorf("not found in %d schedules", simSchedules)
			})
		})
	}
}
