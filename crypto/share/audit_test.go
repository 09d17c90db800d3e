package share

import (
	"errors"
	"math"
	"testing"

	"keymesh/crypto/key"
)

func TestContradict(t *testing.T) {
	a, b := key.Hash(fill(1)), key.Hash(fill(2))
	n, other := node(1).ID(), node(2).ID()
	for _, c := range []struct {
		what string
		x, y AuditHead
		want bool
	}{
		{"the same head", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, false},
		{"the same log later", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 5, Hash: a, Time: 99}, false},
		{"it grew", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 6, Hash: b, Time: 10}, false},
		{"it grew within a second", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 6, Hash: b, Time: 9}, false},
		{"rewritten", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 5, Hash: b, Time: 9}, true},
		{"rewritten, another time", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 5, Hash: b, Time: 12}, true},
		{"cut", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: n, Seq: 4, Hash: b, Time: 10}, true},
		{"cut to nothing", AuditHead{Node: n, Seq: math.MaxUint64, Hash: a, Time: 0}, AuditHead{Node: n, Hash: b, Time: math.MaxUint64}, true},
		{"another node's", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: other, Seq: 5, Hash: b, Time: 9}, false},
		{"another node's, lower", AuditHead{Node: n, Seq: 5, Hash: a, Time: 9}, AuditHead{Node: other, Seq: 4, Hash: b, Time: 10}, false},
	} {
		if got := Contradict(&c.x, &c.y); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
		if got := Contradict(&c.y, &c.x); got != c.want {
			t.Errorf("%s, the other way round: %v", c.what, got)
		}
	}
}

func TestAuditHeadNeedsAHash(t *testing.T) {
	h := fixedAuditHead()
	h.Hash = key.Hash{}
	if got, err := OpenAuditHead(testNet, SignAuditHead(node(1), testNet, h).Encode()); !errors.Is(err, ErrAuditHead) || got != nil {
		t.Error(got, err)
	}
	h = fixedAuditHead()
	h.Seq = 0 // the start of the chain
	if _, err := OpenAuditHead(testNet, SignAuditHead(node(1), testNet, h).Encode()); err != nil {
		t.Error(err)
	}
}
