package storage

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keymesh/crypto/key"
	"keymesh/crypto/share"
)

func signHead(i byte, h share.AuditHead) []byte {
	return share.SignAuditHead(auditNode(i), auditNet(), h).Encode()
}

// forge rewrites a log with the storage key, as who has taken over the machine
// can: change gets the entries and returns those of the new log.
func forge(t *testing.T, dir string, change func([]AuditEntry) []AuditEntry) {
	t.Helper()
	a, err := OpenAudit(dir, auditKey(), AuditOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	entries, err := a.Tail(context.Background(), 0, MaxAuditTail)
	if err != nil {
		t.Fatal(err)
	}
	pos, end := position{0, chainStart(a.net, a.node, a.id)}, int64(segHead)
	b := read(t, dir, auditName)[:segHead]
	for _, e := range change(entries) {
		e.Seq, e.Prev = pos.seq+1, pos.hash
		g := a.keys.sealGroup(1, end, e.Seq, [][]byte{e.encode()})
		b, end, pos = append(b, g...), end+int64(len(g)), position{e.Seq, e.Hash}
	}
	overwrite(t, dir, auditName, b)
	a.pos, a.end = pos, end
	if err := a.writeMark(true); err != nil {
		t.Fatal(err)
	}
}

// A log that was cut or rewritten with its own key is in order by itself. The
// heads that its node has signed, and its peers kept, give it away.
func TestAuditRewrittenWithTheKey(t *testing.T) {
	for what, c := range map[string]struct {
		change func([]AuditEntry) []AuditEntry
		says   string
	}{
		"edited":                {func(e []AuditEntry) []AuditEntry { e[3].Detail = "nothing"; return e }, "entry 9"},
		"the last edited":       {func(e []AuditEntry) []AuditEntry { e[8].Kind = "other"; return e }, "entry 9"},
		"reordered":             {func(e []AuditEntry) []AuditEntry { e[3], e[4] = e[4], e[3]; return e }, "entry 9"},
		"one missing":           {func(e []AuditEntry) []AuditEntry { return append(e[:4], e[5:]...) }, "entry 9 was signed"},
		"one missing, one more": {func(e []AuditEntry) []AuditEntry { return append(append(e[:4], e[5:]...), e[0]) }, "entry 9"},
		"cut off":               {func(e []AuditEntry) []AuditEntry { return e[:8] }, "entry 9 was signed"},
		"emptied":               {func(e []AuditEntry) []AuditEntry { return nil }, "entry 9 was signed"},
		"cut off and grown again": {func(e []AuditEntry) []AuditEntry {
			return append(e[:8], auditEntry(1), auditEntry(2))
		}, "entry 9"},
	} {
		dir := newAudit(t)
		a, stop := openAudit(t, dir, 0)
		fillAudit(t, a, 9)
		mine := signHead(0, headOf(t, a))
		stop()
		forge(t, dir, c.change)
		if _, err := checkAudit(t, dir); err != nil {
			t.Fatalf("%s: the forgery is no good one: %v", what, err)
		}
		a, stop = openAudit(t, dir, 0)
		peer := auditNode(5).ID()
		if err := a.SaveWitness(peer, mine); !errors.Is(err, ErrRewritten) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", what, err)
		}
		stop()
		// It stays known.
		_, err := checkAudit(t, dir)
		if !errors.Is(err, ErrRewritten) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), peer.Short()) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// A head that was witnessed before the log was cut, with the file of heads left
// in place, needs no peer.
func TestAuditCutAfterAWitness(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	fillAudit(t, a, 9)
	if err := a.SaveWitness(auditNode(5).ID(), signHead(0, headOf(t, a))); err != nil {
		t.Fatal(err)
	}
	fillAudit(t, a, 11)
	verifyAudit(t, a)
	stop()
	forge(t, dir, func(e []AuditEntry) []AuditEntry { return e[:8] })
	if _, err := checkAudit(t, dir); !errors.Is(err, ErrRewritten) {
		t.Error(err)
	}
}

func TestAuditWitnesses(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 1000)
	fillAudit(t, a, 2)
	b, c := auditNode(1).ID(), auditNode(2).ID()
	first := signHead(0, headOf(t, a))
	fillAudit(t, a, 9)
	second := signHead(0, headOf(t, a))
	theirs := func(seq uint64, hash byte, at uint64) []byte {
		return signHead(1, share.AuditHead{Seq: seq, Hash: key.Hash{hash}, Time: at})
	}
	save := func(peer key.NodeID, head []byte) {
		t.Helper()
		if err := a.SaveWitness(peer, head); err != nil {
			t.Fatal(err)
		}
	}
	save(b, first)
	save(b, second)
	save(b, first) // an older one is no news
	save(b, theirs(5, 1, 100))
	save(b, theirs(7, 2, 200))
	save(b, theirs(6, 3, 150))
	save(b, theirs(7, 2, 201)) // nothing new
	save(c, first)
	want := func() {
		t.Helper()
		list := a.Witnesses()
		if len(list) != 2 || list[0].Peer != b || list[1].Peer != c || len(list[0].Proof)+len(list[1].Proof) != 0 {
			t.Fatalf("%+v", list)
		}
		if !bytes.Equal(list[0].Mine, second) || !bytes.Equal(list[0].Theirs, theirs(7, 2, 200)) || !bytes.Equal(list[1].Mine, first) || len(list[1].Theirs) != 0 {
			t.Fatalf("%+v", list)
		}
		if got := a.Witnessed(b); len(got) != 2 || !bytes.Equal(got[0], theirs(7, 2, 200)) || a.Witnessed(c) != nil || a.Witnessed(auditNode(3).ID()) != nil {
			t.Fatal("what is shown to the peers")
		}
	}
	want()
	stop()
	a, _ = openAudit(t, dir, 0)
	want()
	for what, bad := range map[string]struct {
		peer key.NodeID
		head []byte
	}{
		"nothing":                         {b, nil},
		"a third node's":                  {c, theirs(8, 1, 300)},
		"from itself":                     {a.node, second},
		"a head of another network":       {b, share.SignAuditHead(auditNode(1), key.NetworkID{1}, share.AuditHead{Seq: 8, Hash: key.Hash{1}}).Encode()},
		"a release":                       {b, share.SignRelease(auditNode(1), auditNet(), share.Release{}).Encode()},
		"more than a head":                {b, append(theirs(8, 1, 300), 0)},
		"one that this node did not sign": {b, forgedHead(9)},
		"a very long one":                 {b, make([]byte, 1<<20)},
	} {
		if err := a.SaveWitness(bad.peer, bad.head); !errors.Is(err, ErrInput) {
			t.Errorf("%s: %v", what, err)
		}
	}
	want()
	verifyAudit(t, a)
}

// forgedHead is a head of node 0's log that a peer signed.
func forgedHead(seq uint64) []byte {
	body := key.Marshal(&share.AuditHead{Node: auditNode(0).ID(), Seq: seq, Hash: key.Hash{1}, Time: 5})
	return key.Sign(auditNode(1), auditNet(), key.TypeAuditHead, body).Encode()
}

func TestAuditPeerThatRewroteItsLog(t *testing.T) {
	dir := newAudit(t)
	a, stop := openAudit(t, dir, 0)
	peer := auditNode(1).ID()
	one := signHead(1, share.AuditHead{Seq: 9, Hash: key.Hash{1}, Time: 100})
	two := signHead(1, share.AuditHead{Seq: 4, Hash: key.Hash{2}, Time: 200})
	if err := a.SaveWitness(peer, one); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := a.SaveWitness(peer, two); !errors.Is(err, ErrRewritten) || !strings.Contains(err.Error(), peer.Short()) {
			t.Fatal(err)
		}
	}
	stop()
	a, _ = openAudit(t, dir, 0)
	w := a.Witnesses()[0]
	if len(w.Proof) != 2 || !bytes.Equal(w.Proof[0], one) || !bytes.Equal(w.Proof[1], two) {
		t.Fatalf("%+v", w)
	}
	verifyAudit(t, a) // this node's log is in order
}

func TestAuditWitnessesAreBounded(t *testing.T) {
	dir := newAudit(t)
	a, _ := openAudit(t, dir, 0)
	var s witnesses
	for i := range maxWitnesses + 10 {
		w := Witness{Peer: key.NodeID{byte(i), byte(i >> 8)}, Time: uint64(1000 - i), Mine: make([]byte, maxHeadBytes), Theirs: make([]byte, maxHeadBytes)}
		if i < 5 || i == maxWitnesses-1 {
			w.Proof = [][]byte{make([]byte, maxHeadBytes), make([]byte, maxHeadBytes)}
		}
		s.list = s.with(w)
	}
	if len(s.list) != maxWitnesses || s.find(key.NodeID{4}) == nil || s.find(key.NodeID{9, 2}) == nil || s.find(key.NodeID{0xff, 1}) == nil || s.find(key.NodeID{0xfe, 1}) != nil {
		t.Error("the wrong ones went")
	}
	for i := range s.list {
		s.list[i].Proof = [][]byte{make([]byte, maxHeadBytes), make([]byte, maxHeadBytes)}
		for range MaxEarlier {
			s.list[i].Earlier = append(s.list[i].Earlier, make([]byte, maxHeadBytes))
		}
	}
	if got := s.with(Witness{Peer: key.NodeID{0xee, 0xee}}); len(got) != maxWitnesses {
		t.Error("a proof went")
	}
	if err := replaceFile(a.path(auditPeers), a.keys.encodePeers(s.list)); err != nil {
		t.Fatal(err)
	}
	if err := a.loadPeers(); err != nil || len(a.witness.list) != maxWitnesses {
		t.Error("a full file is not read:", err)
	}
}

// A clock that was set back must not convict an honest node: the time of its
// heads does not fall, over restarts neither.
func TestAuditHeadTimeNeverFalls(t *testing.T) {
	dir := newAudit(t)
	var heads []share.AuditHead
	for round := range uint64(3) { // each bubble begins at the same time
		synctest.Test(t, func(t *testing.T) {
			a, stop := openAudit(t, dir, 0)
			defer stop()
			for i := range uint64(3) {
				fillAudit(t, a, 3*round+i+1)
				heads = append(heads, headOf(t, a))
				if round == 0 {
					time.Sleep(time.Hour)
				}
			}
		})
	}
	for i := range heads {
		for j := range heads {
			if share.Contradict(&heads[i], &heads[j]) {
				t.Errorf("%+v contradicts %+v", heads[i], heads[j])
			}
		}
	}
	if heads[2].Time-heads[0].Time != 7200 || heads[8].Time != heads[2].Time {
		t.Errorf("%+v", heads)
	}
}

// The peer's file of heads cannot be written: that is said, and the log goes on.
func TestAuditWitnessNotWritten(t *testing.T) {
	dir := newAudit(t)
	a, _ := openAudit(t, dir, 0)
	fillAudit(t, a, 1)
	if err := os.Mkdir(filepath.Join(dir, auditPeers+newSuffix), 0o700); err != nil {
		t.Fatal(err)
	}
	overwrite(t, dir, auditPeers+newSuffix+"/x", nil)
	if err := a.SaveWitness(auditNode(1).ID(), signHead(0, headOf(t, a))); err == nil || len(a.Witnesses()) != 0 {
		t.Error(err)
	}
	fillAudit(t, a, 2)
}
