package api

import (
	"bytes"
	"errors"
	"testing"

	"keymesh/api/apitype"
	"keymesh/api/client"
	"keymesh/keystore"
)

// TestClient runs our own client against our own server, both ways in.
func TestClient(t *testing.T) {
	e := newEnv(t)
	for name, c := range map[string]*client.Client{"unix": {Socket: e.socket}, "tcp": {Addr: "http://" + e.addr, Token: testToken, As: "other"}} {
		t.Run(name, func(t *testing.T) {
			defer c.CloseIdle()
			ctx := t.Context()
			value := bytes.Repeat([]byte{0, 0xff}, apitype.MaxValue/2)
			gen := uint64(6)
			put, err := c.Put(ctx, "demo/db", apitype.PutRequest{Value: value, N: 5, K: 3}, client.PutConditions{IfGen: &gen})
			if err != nil || put.Gen != 7 || !bytes.Equal(e.secrets.value, value) || *e.secrets.putO.IfGen != 6 {
				t.Errorf("put: %+v, %v", put, err)
			}
			e.secrets.rec.Value = value
			rec, err := c.Recover(ctx, "demo/db", apitype.RecoverRequest{})
			if err != nil || len(rec.Value) != len(value) || rec.Gen != 7 {
				t.Errorf("recover: %d bytes, %v", len(rec.Value), err)
			}
			if page, err := c.List(ctx, client.ListOptions{Prefix: "demo/", Limit: 5}); err != nil || len(page.Items) != 1 || e.secrets.listO.Limit != 5 {
				t.Errorf("list: %+v, %v", page, err)
			}
			if info, err := c.Info(ctx, "demo/db"); err != nil || info.Gen != 7 {
				t.Errorf("info: %+v, %v", info, err)
			}
			if del, err := c.Delete(ctx, "demo/db", client.DeleteOptions{Gen: 7, Now: true}); err != nil || !del.Done || e.secrets.delO.Gen != 7 {
				t.Errorf("delete: %+v, %v", del, err)
			}
			want := e.person
			if c.As != "" {
				want = e.other
			}
			if st, err := c.Status(ctx); err != nil || st.Health != apitype.Healthy || st.Person.Person != want.Key.Public().String() {
				t.Errorf("status: %+v, %v", st, err)
			}
			if peers, err := c.Peers(ctx); err != nil || len(peers) != 2 {
				t.Errorf("peers: %+v, %v", peers, err)
			}
			if inv, err := c.Invite(ctx, apitype.InviteRequest{}); err != nil || inv.Ticket == "" {
				t.Errorf("invite: %+v, %v", inv, err)
			}
			if v, err := c.Version(ctx); err != nil || v.Version != "v0-test" {
				t.Errorf("version: %+v, %v", v, err)
			}
			if err := errors.Join(c.Healthy(ctx), c.Ready(ctx)); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestClientSeesProblems(t *testing.T) {
	e := newEnv(t)
	c := &client.Client{Socket: e.socket}
	defer c.CloseIdle()
	e.secrets.err = &keystore.QuorumError{Op: "recover", Need: 3, Have: 2, Seats: sampleSeats("good", "good", "unreachable")}
	_, err := c.Recover(t.Context(), "demo/db", apitype.RecoverRequest{})
	var p *apitype.Problem
	if !errors.As(err, &p) || p.Need != 3 || p.Peers[2].State != "unreachable" || apitype.ExitCode(err) != apitype.ExitQuorum || p.Hint == "" {
		t.Errorf("%+v", err)
	}
	e.secrets.err = &keystore.InDoubtError{Op: "put", Gen: 9, Need: 4, Have: 3}
	_, err = c.Put(t.Context(), "demo/db", apitype.PutRequest{}, client.PutConditions{})
	if !errors.As(err, &p) || p.Gen != 9 || apitype.ExitCode(err) != apitype.ExitInDoubt {
		t.Errorf("%+v", err)
	}
	if _, err := (&client.Client{Addr: "http://" + e.addr}).Status(t.Context()); apitype.ExitCode(err) != apitype.ExitDenied {
		t.Errorf("without a token: %v", err)
	}
	if _, err := (&client.Client{Socket: e.socket, As: "mallory"}).Status(t.Context()); apitype.ExitCode(err) != apitype.ExitLocal {
		t.Errorf("as nobody: %v", err)
	}
}
