package keystore

import (
	"fmt"
	"strings"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

// learnMoves takes in those Reassigns that a holder shows of a manifest which
// follow what is known; others are neither verified nor kept. An error means that it showed something that no honest holder shows.
func (v *view) learnMoves(manifest key.Hash, list [][]byte) error {
	m := v.byHash[manifest]
	if m == nil || len(list) == 0 {
		return nil
	}
	if len(list) > share.MaxReassigns {
		return fmt.Errorf("%w: %d of them", share.ErrReassign, len(list))
	}
	p := v.placement(m)
	for _, b := range list {
		if _, err := p.Open(v.s.cfg.ID, b); err != nil {
			return err
		}
	}
	v.moves[manifest] = p.Moves()
	return nil
}

// placement is who holds the seats of m, as far as is known here.
func (v *view) placement(m *share.SignedManifest) *share.Placement {
	named := v.named(m)
	p := share.NewPlacement(named, ownerAlone(&named.Manifest))
	for _, r := range v.moves[m.Hash] {
		_, _ = p.Add(r) // each follows those before it
	}
	return p
}

// placed is m with the nodes that hold its seats now: for finding rows.
// Certificates and words that nothing is newer are judged by m itself.
func (v *view) placed(m *share.SignedManifest) *share.SignedManifest { return v.placement(m).Placed() }

// named is m with the nodes that it names itself.
func (v *view) named(m *share.SignedManifest) *share.SignedManifest {
	if orig := v.byHash[m.Hash]; orig != nil {
		return orig
	}
	return m
}

// suspect notes which seats a holder suspects.
func (v *view) suspect(from key.NodeID, manifest key.Hash, xs []byte) {
	if len(xs) == 0 || len(xs) > share.MaxSeats {
		return
	}
	if v.suspects[manifest] == nil {
		v.suspects[manifest] = make(map[uint8]map[key.NodeID]bool)
	}
	for _, x := range xs {
		if v.suspects[manifest][x] == nil {
			v.suspects[manifest][x] = make(map[key.NodeID]bool)
		}
		v.suspects[manifest][x][from] = true
	}
}

// suspectedBy is how many holders of seats of m suspect seat x.
func (v *view) suspectedBy(m *share.SignedManifest, x uint8) int {
	n := 0
	for _, s := range v.placement(m).Seats() {
		n += btoi(v.suspects[m.Hash][x][s.Node])
	}
	return n
}

// withSuspicion adds to why a seat stands as it does that others suspect it.
func (v *view) withSuspicion(m *share.SignedManifest, st SeatState) SeatState {
	if n := v.suspectedBy(m, st.X); n > 0 {
		st.Why = strings.TrimPrefix(st.Why+fmt.Sprintf("; suspect to %d of the other seats", n), "; ")
	}
	return st
}
