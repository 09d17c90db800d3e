package share

import (
	"testing"

	"keymesh/crypto/key"
)

// What protocol.md section 1 says of w, for every k and n.
func TestW(t *testing.T) {
	for n := 2; n <= MaxSeats; n++ {
		for k := MinK; k <= n; k++ {
			least, w := MinW(n, k), DefaultW(n, k)
			f := w - k
			if w < least || w > n || f < 0 {
				t.Errorf("%d of %d: w = %d of %d to %d", k, n, w, least, n)
			}
			if 2*w-n < k {
				t.Errorf("%d of %d: any w = %d of those that have it may be fewer than k", k, n, w)
			}
			for v := least; v <= n; v++ {
				if 2*v-n <= v-k {
					t.Errorf("%d of %d: two certificates with w = %d share liars only", k, n, v)
				}
				if v < k || n-v >= k {
					t.Errorf("%d of %d: w = %d", k, n, v)
				}
			}
			// One less breaks what the least w is for.
			if v := least - 1; v >= k && n-v < k {
				t.Errorf("%d of %d: w = %d would do as well", k, n, v)
			}
			if want := max(n-(n-k)/2, n-k+1); w != want {
				t.Errorf("%d of %d: w = %d instead of %d", k, n, w, want)
			}
		}
	}
	for _, c := range [][4]int{{5, 3, 4, 3}, {3, 2, 3, 2}, {4, 2, 3, 3}, {2, 2, 2, 2}, {32, 2, 31, 31}, {32, 32, 32, 32}, {7, 4, 6, 4}} {
		if w, least := DefaultW(c[0], c[1]), MinW(c[0], c[1]); w != c[2] || least != c[3] {
			t.Errorf("%d of %d: w = %d, at least %d", c[1], c[0], w, least)
		}
	}
}

func TestDefaultShape(t *testing.T) {
	for holders, want := range map[int][2]int{-1: {}, 0: {}, 1: {}, 2: {}, 3: {3, 2}, 4: {3, 2}, 5: {5, 3}, 6: {5, 3}, 1000: {5, 3}} {
		n, k, ok := DefaultShape(holders)
		if n != want[0] || k != want[1] || ok != (want[0] != 0) {
			t.Errorf("%d holders: %d of %d, %v", holders, k, n, ok)
		}
	}
}

// The same name is another secret for another person, and in another network
// nobody can tell that the two are one.
func TestNamesAreSeparate(t *testing.T) {
	seen := map[key.Hash]string{}
	for who, p := range map[string]key.PersonPrivate{"the owner": owner(), "another": approver()} {
		for net, id := range map[string]key.NetworkID{"here": testNet, "there": {1}} {
			for _, name := range []string{"", "a", "b", "ab", "a\x00"} {
				index := IndexKey(p, id)
				tag := Tag(&index, name)
				for _, h := range []key.Hash{index, tag, Salt(tag, name), ID(p.Public(), Salt(tag, name))} {
					is := who + " " + net
					if h != index {
						is += " " + name
					}
					if other, ok := seen[h]; ok && (h != index || other != is) {
						t.Errorf("%q of %s %s is that of %s", name, who, net, other)
					}
					seen[h] = is
				}
			}
		}
	}
	if seed := owner().Seed(); [32]byte(seed) != fill(1) {
		t.Error("IndexKey cleared the owner's seed")
	}
}

func TestLabelAADIsACopy(t *testing.T) {
	id := key.Hash(fill(1))
	a, b := LabelAAD(id, 1), LabelAAD(id, 2)
	if string(a) == string(b) || len(a) != 40 || a[39] != 1 || b[39] != 2 || id != fill(1) {
		t.Errorf("%x %x", a, b)
	}
}

// Buckets are on disk.
func TestBuckets(t *testing.T) {
	for b, want := range map[Bucket]uint8{
		BucketState: 1, BucketRow: 2, BucketPayload: 3, BucketJournal: 4, BucketReader: 5,
		BucketMesh: 6, BucketNode: 7, BucketRequest: 8, BucketPass: 9,
	} {
		if uint8(b) != want {
			t.Errorf("bucket %d instead of %d", b, want)
		}
	}
}
