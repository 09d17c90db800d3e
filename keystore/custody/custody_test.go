package custody

import (
	"bytes"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"keymesh/crypto/key"
)

var update = flag.Bool("update", false, "write testdata/bodies.txt")

// fill gives every field a value that no other field has, so that two fields
// that change places are noticed.
func fill(v reflect.Value, n *byte) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() && f.Name != "Head" {
				fill(v.Field(i), n)
			}
		}
	case reflect.Array:
		*n++
		for i := range v.Len() {
			v.Index(i).SetUint(uint64(*n))
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			*n++
			v.SetBytes([]byte{*n, *n})
			return
		}
		v.Set(reflect.MakeSlice(v.Type(), 2, 2))
		fill(v.Index(0), n)
		fill(v.Index(1), n)
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		fill(v.Elem(), n)
	case reflect.Bool:
		v.SetBool(true)
	case reflect.String:
		*n++
		v.SetString(fmt.Sprintf("why %d", *n))
	default:
		*n++
		v.SetUint(uint64(*n))
	}
}

// bodies are all bodies of the package with every field set.
func bodies() map[string]key.Body {
	out := map[string]key.Body{
		"Prepare": new(Prepare), "PrepareReply": new(PrepareReply),
		"Commit": new(Commit), "CommitReply": new(CommitReply),
		"Locate": new(Locate), "LocateReply": new(LocateReply),
		"List": new(List), "ListReply": new(ListReply),
		"Recover": new(Recover), "RecoverReply": new(RecoverReply),
		"Delete": new(Delete), "DeleteReply": new(DeleteReply),
		"Pass": new(Pass), "PassReply": new(PassReply), "Name": new(Name),
		"Approve": new(Approve), "ApproveReply": new(ApproveReply),
		"Notify": new(Notify), "NotifyReply": new(NotifyReply), "Head": new(Head), "HeadReply": new(HeadReply), "Proof": new(Proof),
		"Settle": new(Settle), "SettleReply": new(SettleReply), "Recall": new(Recall), "RecallReply": new(RecallReply),
		"Audit": new(Audit), "AuditReply": new(AuditReply), "Repair": new(Repair), "RepairReply": new(RepairReply),
		"Deal": new(Deal), "DealReply": new(DealReply), "Bundle": new(Bundle), "BundleReply": new(BundleReply),
		"Epoch": new(Epoch), "EpochReply": new(EpochReply), "Refresh": new(Refresh), "RefreshReply": new(RefreshReply), "Dealings": new(Dealings),
	}
	for _, b := range out {
		var n byte
		fill(reflect.ValueOf(b).Elem(), &n)
	}
	return out
}

func fresh(b key.Body) key.Body { return reflect.New(reflect.TypeOf(b).Elem()).Interface().(key.Body) }

// TestVectors fixes the bytes of every body.
func TestVectors(t *testing.T) {
	const file = "testdata/bodies.txt"
	all := bodies()
	if *update {
		var out strings.Builder
		for _, name := range []string{
			"Prepare", "PrepareReply", "Commit", "CommitReply", "Locate", "LocateReply", "List", "ListReply",
			"Recover", "RecoverReply", "Delete", "DeleteReply", "Pass", "PassReply",
			"Name", "Approve", "ApproveReply", "Notify", "NotifyReply", "Head", "HeadReply", "Proof",
			"Settle", "SettleReply", "Recall", "RecallReply",
			"Audit", "AuditReply", "Repair", "RepairReply",
			"Deal", "DealReply", "Bundle", "BundleReply", "Epoch", "EpochReply", "Refresh", "RefreshReply", "Dealings",
		} {
			fmt.Fprintf(&out, "%s %x\n", name, key.Marshal(all[name]))
		}
		if err := os.WriteFile(file, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(raw)), "\n")
	if len(lines) != len(all) {
		t.Fatalf("%d vectors for %d bodies", len(lines), len(all))
	}
	for _, line := range lines {
		name, digits, _ := strings.Cut(line, " ")
		want, err := hex.DecodeString(digits)
		if err != nil || all[name] == nil {
			t.Fatalf("%s: %v", name, err)
		}
		if got := key.Marshal(all[name]); !bytes.Equal(got, want) {
			t.Errorf("%s is now\n%x", name, got)
		}
		b := fresh(all[name])
		if err := key.Unmarshal(want, b); err != nil || !reflect.DeepEqual(b, all[name]) {
			t.Errorf("%s does not survive: %v\n%+v\n%+v", name, err, b, all[name])
		}
	}
}

// TestEveryByteCounts: a changed byte is refused or is another body; a body cut
// short, or with more after it, is refused.
func TestEveryByteCounts(t *testing.T) {
	for name, body := range bodies() {
		good := key.Marshal(body)
		for i := range good {
			c := bytes.Clone(good)
			c[i] ^= 0x01
			b := fresh(body)
			if key.Unmarshal(c, b) == nil && reflect.DeepEqual(b, body) {
				t.Errorf("%s: byte %d says nothing", name, i)
			}
			if key.Unmarshal(good[:i], fresh(body)) == nil {
				t.Errorf("%s: accepted the first %d bytes", name, i)
			}
		}
		if key.Unmarshal(append(bytes.Clone(good), 0), fresh(body)) == nil {
			t.Errorf("%s: accepted a trailing byte", name)
		}
	}
}

// TestEmpty: an empty body keeps its form, whether its lists are nil or empty.
func TestEmpty(t *testing.T) {
	for name, body := range bodies() {
		e := key.Marshal(fresh(body))
		b := fresh(body)
		if err := key.Unmarshal(e, b); err != nil || !bytes.Equal(key.Marshal(b), e) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVerbs(t *testing.T) {
	for verb := range uint64(64) {
		if Unmetered(verb) && (verb < VerbReserve || verb > VerbRefresh) {
			t.Errorf("verb %d is not one of ours and not metered", verb)
		}
	}
	// Expiry takes away placing, never holding (protocol.md section 4.3).
	for _, verb := range []uint64{VerbLocate, VerbList, VerbRecover, VerbCommit, VerbDelete, VerbSettle, VerbNotify, VerbApprove, VerbAudit, VerbRepair, VerbPass, VerbHead, VerbRecall} {
		if !Lapsed(verb) {
			t.Errorf("verb %d is not served to a lapsed peer", verb)
		}
	}
	if Lapsed(VerbPrepare) || Lapsed(VerbReserve) || Unmetered(VerbPass) || !Unmetered(VerbRecover) {
		t.Error("placing is served to a lapsed peer, or a limit is wrong")
	}
}

// fuzz: accepted bytes re-encode to themselves.
func fuzz[B any, P interface {
	*B
	key.Body
}](f *testing.F, name string) {
	f.Add(key.Marshal(bodies()[name]))
	f.Add(key.Marshal(P(new(B))))
	f.Fuzz(func(t *testing.T, in []byte) {
		b := P(new(B))
		if key.Unmarshal(in, b) == nil && !bytes.Equal(key.Marshal(b), in) {
			t.Fatal("accepted bytes do not re-encode to themselves")
		}
	})
}

func FuzzDealReply(f *testing.F)    { fuzz[DealReply](f, "DealReply") }
func FuzzBundle(f *testing.F)       { fuzz[Bundle](f, "Bundle") }
func FuzzBundleReply(f *testing.F)  { fuzz[BundleReply](f, "BundleReply") }
func FuzzEpoch(f *testing.F)        { fuzz[Epoch](f, "Epoch") }
func FuzzEpochReply(f *testing.F)   { fuzz[EpochReply](f, "EpochReply") }
func FuzzRefreshReply(f *testing.F) { fuzz[RefreshReply](f, "RefreshReply") }
func FuzzPrepare(f *testing.F)      { fuzz[Prepare](f, "Prepare") }
func FuzzPrepareReply(f *testing.F) { fuzz[PrepareReply](f, "PrepareReply") }
func FuzzCommit(f *testing.F)       { fuzz[Commit](f, "Commit") }
func FuzzCommitReply(f *testing.F)  { fuzz[CommitReply](f, "CommitReply") }
func FuzzLocate(f *testing.F)       { fuzz[Locate](f, "Locate") }
func FuzzLocateReply(f *testing.F)  { fuzz[LocateReply](f, "LocateReply") }
func FuzzList(f *testing.F)         { fuzz[List](f, "List") }
func FuzzListReply(f *testing.F)    { fuzz[ListReply](f, "ListReply") }
func FuzzRecover(f *testing.F)      { fuzz[Recover](f, "Recover") }
func FuzzRecoverReply(f *testing.F) { fuzz[RecoverReply](f, "RecoverReply") }
func FuzzDelete(f *testing.F)       { fuzz[Delete](f, "Delete") }
func FuzzDeleteReply(f *testing.F)  { fuzz[DeleteReply](f, "DeleteReply") }
func FuzzPass(f *testing.F)         { fuzz[Pass](f, "Pass") }
func FuzzPassReply(f *testing.F)    { fuzz[PassReply](f, "PassReply") }
func FuzzName(f *testing.F)         { fuzz[Name](f, "Name") }
func FuzzApprove(f *testing.F)      { fuzz[Approve](f, "Approve") }
func FuzzApproveReply(f *testing.F) { fuzz[ApproveReply](f, "ApproveReply") }
func FuzzNotify(f *testing.F)       { fuzz[Notify](f, "Notify") }
func FuzzNotifyReply(f *testing.F)  { fuzz[NotifyReply](f, "NotifyReply") }
func FuzzHead(f *testing.F)         { fuzz[Head](f, "Head") }
func FuzzHeadReply(f *testing.F)    { fuzz[HeadReply](f, "HeadReply") }
func FuzzProof(f *testing.F)        { fuzz[Proof](f, "Proof") }
func FuzzSettle(f *testing.F)       { fuzz[Settle](f, "Settle") }
func FuzzSettleReply(f *testing.F)  { fuzz[SettleReply](f, "SettleReply") }
func FuzzRecall(f *testing.F)       { fuzz[Recall](f, "Recall") }
func FuzzRecallReply(f *testing.F)  { fuzz[RecallReply](f, "RecallReply") }
