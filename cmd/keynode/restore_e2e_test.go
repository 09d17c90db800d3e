package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"keymesh/api/apitype"
	"keymesh/api/client"
	"keymesh/crypto/key"
	"keymesh/crypto/seal"
	"keymesh/keystore"
	"keymesh/keystore/policy"
	"keymesh/mesh/roster"
)

// afterDelay is the default policy with a delay that a test can wait for.
func afterDelay(recovery string, seconds uint64) *apitype.Policy {
	return &apitype.Policy{Any: []apitype.Policy{{Owner: true},
		{All: []apitype.Policy{{Code: recovery}, {Delay: &apitype.Delay{Seconds: seconds, Veto: []string{"owner"}}}}}}}
}

// TestRestore destroys the owner's machine, which founded the network and alone
// could admit members, and brings every secret and its name back on a new one
// with the kit: by real processes, with delays of two seconds.
func TestRestore(t *testing.T) {
	long(t)
	c := testCluster(t, 5)
	ctx := t.Context()
	lost := identityOf(t, c, 1)
	values := map[string][]byte{"web/db": []byte("hunter2"), "web/tls": bytes.Repeat([]byte{0, 1, 2}, 5000), "äöü/empty": {}}
	for name, v := range values {
		_, err := c.client(1).Put(ctx, name, apitype.PutRequest{Value: v, Policy: afterDelay(lost.RecoveryPublic.String(), 2), Labels: map[string]string{"of": name}}, client.PutConditions{})
		if err != nil {
			t.Fatal(err)
		}
		waitAcked(t, c.client(1), name, 5)
	}
	kit, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client(1).Kit(ctx, apitype.KitRequest{Act: apitype.KitErase, Text: kit.Text}); err != nil {
		t.Fatal(err)
	}
	if err := c.signal(1, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(c.nodeDir(1)); err != nil {
		t.Fatal(err)
	}
	started := time.Now()
	restoreOnNext(t, c, kit.Text)
	crashWhileItWaits(t, c)
	waitRestored(t, c, values)
	if took := time.Since(started); took < 2*time.Second {
		t.Errorf("everything was back after %v; the delay is 2 s", took)
	}
	waitEstateGone(t, c)
	oldOpensNothing(t, c, lost, values)
	waitFound(t, c, restoreOnNext(t, c, kit.Text), 0, 1)
	// The new person is one like any other, with a kit of its own.
	again, err := c.client(6).Kit(ctx, apitype.KitRequest{Act: apitype.KitMake})
	if err != nil || again.Authority || again.Owner == lost.Persons[0].Key.Public().String() {
		t.Error("the new person's kit", again.Owner, err)
	}
}

// restoreOnNext makes and starts one node more, from the kit.
func restoreOnNext(t *testing.T, c *cluster, text []byte) (i int) {
	t.Helper()
	addrs, err := freeAddrs(1)
	if err != nil {
		t.Fatal(err)
	}
	c.addrs = append(c.addrs, addrs...)
	i = c.size()
	name := fmt.Sprintf("node-%d", i)
	file := filepath.Join(c.dir, "kit.txt")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"restore", "--data", c.nodeDir(i), "--kit", file, "--name", name, "--operator", "restored-" + name, "--unlock", "none"}
	for range 2 { // the second time changes nothing
		if err := c.command(t.Context(), args...); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(filepath.Join(c.nodeDir(i), configName), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(f, "listen = %q\nadvertise = [%q]\napi_socket = %q\n", addrs[0], "ws://"+addrs[0], c.socket(i))
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.start(i); err != nil {
		t.Fatal(err)
	}
	if err := c.waitAPI(t.Context(), i); err != nil {
		t.Fatal(err)
	}
	return i
}

// waitFound waits until a node that restores says that it has found so many
// secrets, with no more than so many holders silent.
func waitFound(t *testing.T, c *cluster, i, secrets, silent int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	found, quiet := fmt.Sprintf(" %d found", secrets), fmt.Sprintf(" %d holders silent", silent)
	last := ""
	if err := poll(ctx, "the secrets to be found", func() bool {
		st, err := c.client(i).Status(ctx)
		return err == nil && st.Online >= 4 && slices.ContainsFunc(st.Checks, func(c apitype.Check) bool {
			last = c.Text
			return c.Name == "restore" && strings.Contains(c.Text, found) && strings.Contains(c.Text, quiet)
		})
	}); err != nil {
		t.Fatalf("%v; last: %s", err, last)
	}
}

// crashWhileItWaits kills the new node once its requests are with the holders:
// the delays go on without it, and so does the restore afterwards.
func crashWhileItWaits(t *testing.T, c *cluster) {
	t.Helper()
	waitFound(t, c, 6, 3, 1)
	if err := c.signal(6, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := c.start(6); err != nil {
		t.Fatal(err)
	}
}

func waitRestored(t *testing.T, c *cluster, values map[string][]byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	var last error
	if err := poll(ctx, "the secrets on the new machine", func() bool {
		for name, v := range values {
			got, err := c.client(6).Recover(ctx, name, apitype.RecoverRequest{})
			if last = err; err != nil || !bytes.Equal(got.Value, v) {
				return false
			}
		}
		return true
	}); err != nil {
		t.Fatalf("%v; last: %v", err, last)
	}
	page, err := c.client(6).List(ctx, client.ListOptions{})
	if err != nil || len(page.Items) != len(values) {
		t.Fatalf("%d secrets are listed: %v", len(page.Items), err)
	}
	for _, it := range page.Items {
		if it.Labels["of"] != it.Name {
			t.Errorf("the labels of %s are %v", it.Name, it.Labels)
		}
	}
}

func waitEstateGone(t *testing.T, c *cluster) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	if err := poll(ctx, "the end of the restore", func() bool {
		id, err := loadIdentity(c.nodeDir(6), inClear())
		return err == nil && id.Estate == nil
	}); err != nil {
		t.Fatal(err)
	}
}

// oldOpensNothing asks the holders with the old code and the old owner key,
// through the new node's own keystore as a thief would on a member.
func oldOpensNothing(t *testing.T, c *cluster, lost *Identity, values map[string][]byte) {
	t.Helper()
	pass := apitype.Bytes("correct horse battery")
	file, err := sealPerson(Person{Name: "thief", Key: lost.Persons[0].Key, RecoveryPublic: lost.RecoveryPublic}, pass, seal.LeastKDF())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.client(2).ImportPerson(t.Context(), apitype.PersonImport{File: file, Passphrase: pass}); err != nil {
		t.Fatal(err)
	}
	thief := c.client(2)
	thief.As = "thief"
	for name := range values {
		if got, err := thief.Recover(t.Context(), name, apitype.RecoverRequest{}); err == nil {
			t.Errorf("the lost key still opens %s (%d bytes)", name, len(got.Value))
		}
	}
}

// TestRestoreRefuses: what is no kit for this machine changes nothing.
func TestRestoreRefuses(t *testing.T) {
	k := fixedKit(t)
	bare := fixedKit(t)
	bare.Authority = key.AuthorityPrivate{}
	o := func() makeOptions {
		o := makeOptions{dir: filepath.Join(t.TempDir(), "data"), name: "new", unlock: "none"}
		o.defaults("host")
		return o
	}
	for what, c := range map[string]struct {
		kit    *Kit
		unlock string
	}{"a card without an approver": {k.Card(), "none"}, "no seed and no membership": {bare, "none"}, "no unlock mode": {k, ""}} {
		opt := o()
		opt.unlock = c.unlock
		if err := runRestore(opt, c.kit, io.Discard, testTime); err == nil {
			t.Errorf("%s: restored", what)
		}
		if _, err := os.Stat(filepath.Join(opt.dir, identityName)); err == nil {
			t.Errorf("%s: left an identity", what)
		}
	}
	good := o()
	if err := runRestore(good, k, io.Discard, testTime); err != nil {
		t.Fatal(err)
	}
	id, err := loadIdentity(good.dir, Unlock{})
	if err != nil {
		t.Fatal(err)
	}
	if id.Network != k.Network || !id.Authority.IsZero() || len(id.Issuers) != 1 || id.Estate == nil || id.Estate.Owner != k.Owner || id.Estate.Index != k.Index ||
		id.Estate.Code.Public() != k.Code.Public() || id.RecoveryPublic == k.Code.Public() || id.Persons[0].Key.Public() == k.Owner {
		t.Error("the restored node is not as it should be")
	}
	if _, err := roster.VerifyChain(id.Network, id.Member, id.IssuerCert); err != nil {
		t.Errorf("its certificates: %v", err)
	}
	other := fixedKit(t)
	other.Authority = key.GenerateAuthority()
	other.Network = other.Authority.Public().Network()
	if err := runRestore(good, other, io.Discard, testTime); err == nil {
		t.Error("a kit of another network was taken")
	}
	second := fixedKit(t)
	second.Owner = key.GeneratePerson().Public()
	if err := runRestore(good, second, io.Discard, testTime); err == nil {
		t.Error("a second estate displaced the first")
	}
}

// TestRestoreInherits carries policies over to the heir.
func TestRestoreInherits(t *testing.T) {
	long(t)
	owner, code, heir, recovery, friend := key.GeneratePerson(), key.GeneratePerson(), key.GeneratePerson(), key.GeneratePerson(), key.GeneratePerson().Public()
	r := &restorer{e: &Estate{Owner: owner.Public()}, heir: keystore.Person{Key: heir, Recovery: recovery.Public()}}
	old := policy.Any(policy.Owner(), policy.All(policy.Key(friend), policy.Key(owner.Public())),
		policy.All(policy.Code(code.Public()), policy.Delay(60, owner.Public())))
	got, err := r.inherit(old.Encode())
	if err != nil {
		t.Fatal(err)
	}
	want := policy.Any(policy.Owner(), policy.All(policy.Key(friend), policy.Key(heir.Public())),
		policy.All(policy.Code(recovery.Public()), policy.Delay(60, heir.Public())))
	if !bytes.Equal(got, want.Encode()) {
		t.Error("another policy was inherited")
	}
	if _, err := r.inherit([]byte("no policy")); err == nil {
		t.Error("what is no policy was carried over")
	}
}
