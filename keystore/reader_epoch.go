package keystore

import (
	"context"
	"crypto/sha256"
	"fmt"
	"maps"
	"slices"

	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/crypto/shamir"
	"keymesh/crypto/share"
	"keymesh/keystore/custody"
)

// Rows of one generation come in epochs, and of an epoch that is not in force
// everywhere in bundles: rows of two of these give nothing together
// (protocol.md section 9).

// epochKey names rows that fit together. Comparable.
type epochKey struct {
	epoch  uint32
	bundle key.Hash // H(bundle); zero for epoch 0
}

func keyOf(proof *share.OpenedEpoch) epochKey {
	if proof == nil {
		return epochKey{}
	}
	return epochKey{proof.Number(), proof.Bundle}
}

// gotRow is a good row with the signed Release and the Epoch that it came with.
type gotRow struct{ row, release, epoch []byte }

// rowsOf are the rows of a seat that this node itself holds: the one in force
// and, while a refresh is not over, the one before.
type heldRow struct {
	proof *share.OpenedEpoch
	row   []byte
}

func (h heldRow) epoch() uint32 { return keyOf(h.proof).epoch }

func (h heldRow) bytes() []byte {
	if h.proof == nil {
		return nil
	}
	return h.proof.Bytes
}

// rows loads the good rows of a version, the newest first. The error is that of
// the row in force when there is none.
func (c *custodian) rows(e *stored) ([]heldRow, error) {
	var out []heldRow
	row, err := c.loadRow(e)
	if err == nil {
		out = append(out, heldRow{e.proof, row})
	}
	if r := e.refresh; r != nil && r.base != nil {
		if old, err := c.loadRowAt(e, basePlace(e), r.base.proof); err == nil {
			out = append(out, heldRow{r.base.proof, old.Encode()})
			old.Erase()
		}
	}
	if len(out) == 0 {
		return nil, err
	}
	return out, nil
}

// sealRow puts one row, sealed, and its Release into what is answered.
func (c *custodian) sealRow(ctx context.Context, from key.NodeID, e *stored, h heldRow, r *share.SignedRequest) (custody.EpochRow, error) {
	var out custody.EpochRow
	var err error
	info := seal.Info(seal.PurposeRelease, e.Hash, e.x, h.epoch(), c.self, r.Hash)
	if out.Box, err = seal.To(r.Ephemeral, info, h.row); err != nil {
		return out, err
	}
	out.Epoch = h.bytes()
	out.Release, err = c.signRelease(ctx, from, e, h.epoch(), r)
	return out, err
}

// seating is who holds or held the seats of a manifest, as a reader knows.
func seating(net key.NetworkID, use *share.SignedManifest, moves []*share.SignedReassign, shown [][]byte) share.Holds {
	m := use
	if v, err := readVersion(net, use.Bytes()); err == nil {
		m = v.SignedManifest // use may have other nodes in it
	}
	p := share.NewPlacement(m, ownerAlone(&m.Manifest))
	for _, r := range moves {
		_, _ = p.Add(r)
	}
	for _, b := range shown[:min(len(shown), share.MaxReassigns)] {
		_, _ = p.Open(net, b) // one that is not the next changes nothing
	}
	return func(x uint8, node key.NodeID) bool {
		return m.Seated(x, node) || slices.ContainsFunc(p.Moves(), func(r *share.SignedReassign) bool { return r.X == x && r.New == node })
	}
}

// opening is what the rows in one answer are judged by.
type opening struct {
	net   key.NetworkID
	use   *share.SignedManifest
	node  key.NodeID
	req   *share.SignedRequest
	key   *seal.PrivateKey
	holds share.Holds
}

// open judges the rows of an answer that says OK, and the payload.
func (a *rowReply) open(o *opening, reply *custody.RecoverReply, payload bool) {
	rows := append([]custody.EpochRow{{Release: reply.Release, Box: reply.Box, Epoch: reply.Epoch}}, reply.Older...)
	if len(rows) > 2 {
		a.lie = "gave more rows than a seat has"
		return
	}
	for _, r := range rows {
		of, k, row, lie := o.row(r)
		if lie != "" {
			a.lie = lie
			a.erase()
			return
		}
		if a.of = of; of != o.use.Hash {
			return // of another generation: what its state shows decides
		}
		if a.rows == nil {
			a.rows = make(map[epochKey]gotRow)
		}
		a.rows[k] = gotRow{row, r.Release, r.Epoch}
	}
	if payload {
		if uint64(len(reply.Payload)) != o.use.Length || sha256.Sum256(reply.Payload) != o.use.Payload {
			a.lie = "its payload is not the one of the manifest"
			a.erase()
			return
		}
		a.payload = reply.Payload
	}
}

func (a *rowReply) erase() {
	for _, r := range a.rows {
		clear(r.row)
	}
	a.rows = nil
}

// row judges one row: that its holder signed that it gave it to this very
// request, for its own seat, and that it is the one of its epoch.
func (o *opening) row(r custody.EpochRow) (of key.Hash, k epochKey, row []byte, lie string) {
	release, err := share.OpenRelease(o.net, r.Release)
	switch {
	case err != nil:
		return of, k, nil, "its release does not verify"
	case release.Node != o.node || release.Request != o.req.Hash:
		return of, k, nil, "its release is another node's, or for another request"
	case release.Manifest != o.use.Hash:
		return release.Manifest, k, nil, ""
	case !o.holds(release.X, o.node):
		return of, k, nil, fmt.Sprintf("gave x = %d, which is not its seat", release.X)
	}
	var proof *share.OpenedEpoch
	if len(r.Epoch) > 0 {
		if proof, err = share.OpenEpoch(o.net, r.Epoch, o.use, o.holds); err != nil {
			return of, k, nil, "its epoch does not verify: " + reason(err)
		}
	}
	if k = keyOf(proof); k.epoch != release.Epoch {
		return of, k, nil, fmt.Sprintf("gave a row of epoch %d and shows epoch %d", release.Epoch, k.epoch)
	}
	row, err = o.key.Open(seal.Info(seal.PurposeRelease, o.use.Hash, release.X, release.Epoch, release.Node, release.Request), r.Box)
	if err != nil {
		return of, k, nil, "its row does not open"
	}
	parsed, err := shamir.ParseRow(row, int(o.use.K), share.DataKeySize)
	if err != nil || !rowGood(&version{SignedManifest: o.use}, proof, release.X, parsed) {
		clear(row)
		return of, k, nil, "its row is not the one committed to"
	}
	parsed.Erase()
	return release.Manifest, k, row, ""
}

// group is the epoch of which most rows are here, at most k counting: of equals
// the newest.
func (g *reading) group() (best epochKey, rows int) {
	count := make(map[epochKey]int)
	for _, seat := range g.use.Seats {
		if r := g.seats[seat.Node]; r != nil {
			for k := range r.rows {
				count[k]++
			}
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(count), newestFirst) {
		if n := min(count[k], int(g.use.K)); n > rows {
			best, rows = k, n
		}
	}
	return best, rows
}

// behind are the seats that gave rows of older epochs only than the newest that
// a seat showed, and the proof of that.
func (g *reading) behind() (nodes []key.NodeID, epoch []byte) {
	var newest epochKey
	for _, r := range g.seats {
		for k, got := range r.rows {
			if k.epoch > 0 && (epoch == nil || newestFirst(k, newest) < 0) {
				newest, epoch = k, got.epoch
			}
		}
	}
	for id, r := range g.seats {
		if _, ok := r.rows[newest]; len(r.rows) > 0 && !ok {
			nodes = append(nodes, id)
		}
	}
	return nodes, epoch
}

// showEpoch shows seats that are behind, once, what others are at, and reports
// whether the rows are worth asking for again.
func (g *reading) showEpoch(ctx context.Context) bool {
	nodes, epoch := g.behind()
	if len(nodes) == 0 || epoch == nil || g.told || ctx.Err() != nil {
		return false
	}
	g.told = true
	g.spreadEpoch(ctx, nodes, epoch)
	return true
}

// spreadEpoch shows seats the Epoch that others are at: one that has acknowledged
// it has its row.
func (g *reading) spreadEpoch(ctx context.Context, nodes []key.NodeID, epoch []byte) {
	q := key.Marshal(&custody.Epoch{ID: g.h.id, Manifest: g.use.Hash, Epoch: epoch})
	gather(ctx, g.s, g.roster, nodes, func(ctx context.Context, id key.NodeID) (*custody.EpochReply, error) {
		reply := new(custody.EpochReply)
		return reply, g.s.callWithin(ctx, callTimeout, id, custody.VerbEpoch, q, reply)
	}, func(key.NodeID, *custody.EpochReply, error) bool { return false })
}

func newestFirst(a, b epochKey) int {
	if a.epoch != b.epoch {
		return int(int64(b.epoch) - int64(a.epoch))
	}
	return slices.Compare(a.bundle[:], b.bundle[:])
}

// maxCombinations bounds how many choices of k rows are tried when the key check
// refuses one: the rows of epoch 0 are the owner's, and later wrong ones pass
// only where more seats lie than the bound (crypto/share/SPEC.md, "Refresh").
const maxCombinations = 4096

// open combines k rows of one epoch, checks the key and opens the payload. It
// returns the seats that were used.
func (g *reading) open() (value []byte, used []key.NodeID, of epochKey, err error) {
	of, _ = g.group()
	var seats []share.Seat
	for _, seat := range g.use.Seats {
		if r := g.seats[seat.Node]; r.rows[of].row != nil {
			seats = append(seats, seat)
		}
	}
	tries := 0
	err = seal.ErrKey
	choose(len(seats), int(g.use.K), func(pick []int) bool {
		var shares []shamir.Share
		used = nil
		for _, i := range pick {
			shares = append(shares, shamir.Share{X: seats[i].X, Y: g.seats[seats[i].Node].rows[of].row[:share.DataKeySize]})
			used = append(used, seats[i].Node)
		}
		value, err = g.openWith(shares)
		tries++
		return err != nil && of.epoch > 0 && tries < maxCombinations
	})
	return value, used, of, err
}

// choose calls f with the choices of k out of n until it says no.
func choose(n, k int, f func([]int) bool) {
	pick := make([]int, 0, k)
	var next func(from int) bool
	next = func(from int) bool {
		if len(pick) == k {
			return f(pick)
		}
		for i := from; i <= n-(k-len(pick)); i++ {
			pick = append(pick, i)
			if !next(i + 1) {
				return false
			}
			pick = pick[:len(pick)-1]
		}
		return true
	}
	next(0)
}

// numberOf is the number of an Epoch that nothing depends on.
func numberOf(epoch []byte) uint32 {
	var e share.Epoch
	if len(epoch) == 0 || len(epoch) > share.MaxEpoch || key.Unmarshal(epoch, &e) != nil {
		return 0
	}
	return e.Epoch
}
