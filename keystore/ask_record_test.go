package keystore

import (
	"encoding/hex"
	"testing"

	"keymesh/crypto/key"
)

// TestRequestRecordVectors fixes the bytes of what is on disk of requests.
func TestRequestRecordVectors(t *testing.T) {
	asked := &askRecord{Request: []byte{1}, Key: []byte{2}, Manifest: []byte{3}, Name: "n", Tag: key.Hash{5}}
	told := &toldRecord{Request: []byte{1}, Manifest: []byte{2}, Operator: "op", Name: "n", Tag: key.Hash{5}, Words: [][]byte{{6}}, Released: true,
		Unsent: []unsentRecord{{Person: key.PersonPublic{7}, Nodes: []key.NodeID{{8}}}}}
	const zeros = "00000000000000000000000000000000000000000000000000000000000000"
	for _, v := range []struct {
		body key.Body
		want string
	}{
		{asked, "a6" + "0001" + "014101" + "024102" + "034103" + "04616e" + "055820" + "05" + zeros},
		{told, "a9" + "0001" + "014101" + "024102" + "03626f70" + "04616e" + "055820" + "05" + zeros + "06814106" + "07f5" +
			"0881" + "82" + "5820" + "07" + zeros + "81" + "5820" + "08" + zeros},
	} {
		if got := hex.EncodeToString(key.Marshal(v.body)); got != v.want {
			t.Errorf("%T is now\n%s instead of\n%s", v.body, got, v.want)
		}
	}
	for _, raw := range [][]byte{nil, {0xa1, 0, 1}, key.Marshal(asked), key.Marshal(told)} {
		s := &Store{cfg: Config{ID: key.NetworkID{7}}}
		if a, err := s.readAsk(raw); err == nil {
			t.Errorf("%+v was read", a)
		}
		if n, err := s.readTold(raw); err == nil {
			t.Errorf("%+v was read", n)
		}
	}
}
