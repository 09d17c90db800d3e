package mesh

import (
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/mesh/frame"
	"keymesh/mesh/roster"
)

// recordOf is the record that a node of this configuration would sign.
func recordOf(c Config, seq uint64, expires time.Duration) roster.NodeRecord {
	return roster.NodeRecord{
		Node: c.Key.ID(), Seq: seq, Addrs: []string{"evil:9"}, Member: c.Member, Issuer: c.Issuer,
		Expires: uint64(time.Now().Add(expires).Unix()),
	}
}

// forge signs whatever the record says.
func (a *authority) forge(k key.NodePrivate, r roster.NodeRecord) key.Object {
	return key.Sign(k, a.id, key.TypeNodeRecord, key.Marshal(&r))
}

// forgeries are objects that evil may announce about good, itself and the
// victim, none of which anybody may believe.
func (a *authority) forgeries(t testing.TB, evil, good, victim Config) map[string]key.Object {
	changed := func(change func(*roster.NodeRecord)) key.Object {
		r := recordOf(good, 9, time.Hour)
		change(&r)
		return a.forge(good.Key, r)
	}
	flipped := a.forge(good.Key, recordOf(good, 9, time.Hour))
	flipped.Sig[9] ^= 4
	other := newAuthority(t)
	foreign := evil
	foreign.Issuer, foreign.Member = other.cert, other.member(t, evil.Key.ID(), "evil", time.Hour)
	borrowed := recordOf(evil, 9, time.Hour)
	borrowed.Member = good.Member
	return map[string]key.Object{
		"signed by another node":  a.forge(evil.Key, recordOf(good, 9, time.Hour)),
		"a flipped bit":           flipped,
		"another's certificate":   a.forge(evil.Key, borrowed),
		"of another network":      a.forge(evil.Key, recordOf(foreign, 9, time.Hour)),
		"the same seq":            a.forge(good.Key, recordOf(good, 1, time.Hour)),
		"a seq of zero":           a.forge(good.Key, recordOf(good, 0, time.Hour)),
		"ends in 27 hours":        a.forge(good.Key, recordOf(good, 9, 27*time.Hour)),
		"a record for the victim": a.forge(evil.Key, recordOf(victim, 9, time.Hour)),
		"too many addresses":      changed(func(r *roster.NodeRecord) { r.Addrs = make([]string, 9) }),
		"an address with a path":  changed(func(r *roster.NodeRecord) { r.Addrs = []string{"ws://a:1/x"} }),
		"larger than 1.5 KiB":     changed(func(r *roster.NodeRecord) { r.Ext = map[uint64][]byte{1: make([]byte, 1500)} }),
		"a critical extension":    changed(func(r *roster.NodeRecord) { r.Ext = map[uint64][]byte{2: nil} }),
		"not a record":            key.Sign(good.Key, a.id, key.TypeManifest, []byte{0xa0}),
		"a member certificate":    good.Member,
		"a revocation by nobody":  key.Sign(evil.Key, a.id, key.TypeRevocation, key.Marshal(&roster.Revocation{Seq: 1, Nodes: []key.NodeID{good.Key.ID()}})),
	}
}

// TestForgedRecords: what a member announces about others is believed only as
// far as it is signed.
func TestForgedRecords(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, v, net, evil := victim(t)
		v.start()
		defer v.stop()
		good := a.newPeer(t, net, "g", "v:1")
		good.start()
		defer good.stop()
		waitMesh(t, []*peer{v, good}, time.Second)
		cfg := a.newPeer(t, net, "evil").cfg
		x := intrude(t, evil, "v:1", cfg)
		defer x.close()
		announced := func(o key.Object) {
			x.send(frame.Push, 0, verbAnnounce, key.Marshal(&announce{Items: []roster.Item{{Object: o}}}))
			time.Sleep(time.Second)
		}
		for name, o := range a.forgeries(t, cfg, good.cfg, v.cfg) {
			announced(o)
			rec := v.node.record(good.cfg.Key.ID())
			if rec.Body.Seq != 1 || len(rec.Body.Addrs) != 1 || rec.Body.Addrs[0] != "ws://g:1" {
				t.Errorf("%s was believed: %+v", name, rec.Body)
			}
			if s := v.node.Status(); s.Members != 2 || s.Seq != 1 {
				t.Errorf("%s: %+v", name, s)
			}
		}
		// The honest case, so that the test can fail.
		announced(a.forge(good.cfg.Key, recordOf(good.cfg, 9, time.Hour)))
		if rec := v.node.record(good.cfg.Key.ID()); rec.Body.Seq < 9 {
			t.Errorf("a good record was not taken: %+v", rec.Body)
		}
	})
}
