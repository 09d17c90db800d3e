package mesh

import (
	"errors"
	"fmt"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/roster"
)

const saveGather = 100 * time.Millisecond // notes are saved together

type noteKey struct {
	kind uint8
	id   key.Hash
}

// recordNote is the value of a NoteRecord.
type recordNote struct {
	key.Head
	Object key.Object `cbor:"1,keyasint"`
	Proven []string   `cbor:"2,keyasint"` // addresses at which the node was met
}

// revocationNote is the value of a NoteRevocation.
type revocationNote struct {
	key.Head
	Item roster.Item `cbor:"1,keyasint"`
}

// selfNote is the value of a NoteSelf.
type selfNote struct {
	key.Head
	Seq       uint64     `cbor:"1,keyasint"`
	Member    key.Object `cbor:"2,keyasint"`
	Issuer    key.Object `cbor:"3,keyasint"`
	NotBefore uint64     `cbor:"4,keyasint"` // the highest signed beginning seen; unix seconds
}

// load reads the book into the roster. Notes that this node would not accept
// from a peer are skipped.
func (n *Node) load(now time.Time) error {
	if n.cfg.Book == nil {
		return nil
	}
	notes, err := n.cfg.Book.Load()
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, kind := range []uint8{NoteSelf, NoteRevocation, NoteRecord} {
		for _, note := range notes {
			if note.Kind != kind {
				continue
			}
			if err := n.loadNote(note, now); err != nil {
				n.log.Debug("skipped a note of the peer book", "kind", note.Kind, "cause", err)
			}
		}
	}
	clear(n.fresh)
	clear(n.dirty)
	return nil
}

func (n *Node) loadNote(note Note, now time.Time) error {
	switch note.Kind {
	case NoteSelf:
		return n.loadSelf(note.Value)
	case NoteRevocation:
		var v revocationNote
		if err := key.Unmarshal(note.Value, &v); err != nil {
			return err
		}
		return n.merge(v.Item, n.id, now)
	}
	var v recordNote
	if err := key.Unmarshal(note.Value, &v); err != nil {
		return err
	}
	if err := n.merge(roster.Item{Object: v.Object}, n.id, now); err != nil {
		return err
	}
	c := n.peers[key.NodeID(note.ID)]
	if c == nil {
		return errors.New("a record under another node's id")
	}
	c.proven = map[string]bool{}
	for _, a := range v.Proven {
		c.proven[a] = true
	}
	c.next = now // those who are there do not know yet that this node is back
	return nil
}

// loadSelf takes the stored certificates when they are newer than the
// configured ones. The caller holds n.mu.
func (n *Node) loadSelf(value []byte) error {
	var v selfNote
	if err := key.Unmarshal(value, &v); err != nil {
		return err
	}
	n.seq = v.Seq
	if v.NotBefore < 1<<40 {
		n.roster.SawTime(time.Unix(int64(v.NotBefore), 0))
	}
	have, err := roster.VerifyChain(n.cfg.Network, n.member, n.issuer)
	if err != nil {
		return err
	}
	kept, err := roster.VerifyChain(n.cfg.Network, v.Member, v.Issuer)
	if err != nil || kept.Member.Node != n.id {
		return fmt.Errorf("stored certificates: %w", errors.Join(err, roster.ErrChain))
	}
	if kept.Expires().After(have.Expires()) {
		n.adopt(v.Member, v.Issuer, kept)
	}
	return nil
}

// adopt makes a newer chain the node's own. The caller holds n.mu.
func (n *Node) adopt(member, issuer key.Object, c roster.Chain) {
	n.member, n.issuer = member, issuer
	n.certExp.Store(c.Expires().Unix())
	n.roster.Saw(c)
}

// saveSelf writes the own note and waits for it. The caller holds n.mu.
func (n *Node) saveSelf() error {
	if n.cfg.Book == nil {
		return nil
	}
	v := selfNote{Seq: n.seq, Member: n.member, Issuer: n.issuer, NotBefore: uint64(max(n.roster.NotBefore().Unix(), 0))}
	return n.cfg.Book.Save([]Note{{Kind: NoteSelf, Value: key.Marshal(&v)}})
}

// noteRecord marks a peer's record to be saved soon. The caller holds n.mu.
func (n *Node) noteRecord(id key.NodeID) {
	rec := n.roster.Get(id)
	if n.cfg.Book == nil || rec == nil {
		return
	}
	v := recordNote{Object: rec.Object}
	if c := n.peers[id]; c != nil {
		for _, a := range c.addrs {
			if c.proven[a] {
				v.Proven = append(v.Proven, a)
			}
		}
	}
	n.note(Note{Kind: NoteRecord, ID: key.Hash(id), Value: key.Marshal(&v)})
}

func (n *Node) noteRevocation(id key.Hash) {
	if it, ok := n.roster.Item(id); ok {
		n.note(Note{Kind: NoteRevocation, ID: id, Value: key.Marshal(&revocationNote{Item: it})})
	}
}

func (n *Node) note(note Note) {
	if n.cfg.Book == nil {
		return
	}
	n.dirty[noteKey{note.Kind, note.ID}] = note
	nudge(n.saveWake)
}

// save writes notes, a few at a time, off everybody's path: a lost one is
// learnt again from the peers.
func (n *Node) save() error {
	for {
		select {
		case <-n.ctx.Done():
			return nil
		case <-n.saveWake:
			if !n.pause(saveGather) {
				return nil
			}
			n.flushNotes()
		}
	}
}

// flushNotes saves what is marked. What could not be saved is logged, and
// learnt again from the peers after a restart.
func (n *Node) flushNotes() error {
	n.mu.Lock()
	notes := make([]Note, 0, len(n.dirty))
	for _, v := range n.dirty {
		notes = append(notes, v)
	}
	clear(n.dirty)
	n.mu.Unlock()
	if len(notes) == 0 {
		return nil
	}
	err := n.cfg.Book.Save(notes)
	if err != nil {
		n.count("notes not saved")
		n.log.Error("the peer book could not be written", "cause", err)
	}
	return err
}

// Notes returns what a new node writes into its book, so that it knows its
// peers at the first start.
func (a Admission) Notes() []Note {
	var out []Note
	for _, o := range a.Records {
		v := recordNote{Object: o}
		out = append(out, Note{Kind: NoteRecord, ID: key.Hash(key.NodePublic(o.Key).ID()), Value: key.Marshal(&v)})
	}
	return out
}
