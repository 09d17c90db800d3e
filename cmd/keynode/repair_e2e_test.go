package main

import (
	"encoding/json"
	"os"
	"syscall"
	"testing"

	"keymesh/api/apitype"
	"keymesh/api/client"
)

// seatsJob runs verify or repair on a secret.
func seatsJob(t *testing.T, c *client.Client, verb, name string, in any) apitype.Repaired {
	t.Helper()
	j, err := c.StartJob(t.Context(), name, verb, in)
	if err == nil {
		j, err = c.WaitJob(t.Context(), j.ID)
	}
	if err != nil {
		t.Fatal(err)
	}
	var out apitype.Repaired
	if err := json.Unmarshal(j.Result, &out); err != nil {
		t.Fatalf("%v: %+v", err, j)
	}
	return out
}

// A holder of five is lost with its disk, then another; each time the secret is
// seen to have lost a seat, and repair brings five good ones back.
func TestRepairLostNodes(t *testing.T) {
	long(t)
	c := testCluster(t, 7)
	api := c.client(1)
	value := []byte("what outlives its machines")
	holders := []string{"node-1", "node-2", "node-3", "node-4", "node-5"}
	if _, err := api.Put(t.Context(), "estate", apitype.PutRequest{Value: value, Holders: holders}, client.PutConditions{}); err != nil {
		t.Fatal(err)
	}
	waitAcked(t, api, "estate", 5)
	for _, lost := range []int{5, 4} {
		to := map[int]string{5: "node-6", 4: "node-7"}[lost]
		if v := seatsJob(t, api, apitype.JobVerify, "estate", nil); v.Good != 5 || v.Exit != apitype.ExitOK {
			t.Fatalf("before: %+v", v)
		}
		if err := c.signal(lost, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		if err := os.RemoveAll(c.nodeDir(lost)); err != nil {
			t.Fatal(err)
		}
		v := seatsJob(t, api, apitype.JobVerify, "estate", nil)
		for range 50 {
			if v.Good == 4 {
				break
			}
			v = seatsJob(t, api, apitype.JobVerify, "estate", nil)
		}
		if v.Good != 4 {
			t.Fatalf("without node %d: %+v", lost, v)
		}
		r := seatsJob(t, api, apitype.JobRepair, "estate", apitype.RepairRequest{To: []string{to}})
		if r.Good != 5 || len(r.Moved) != 1 || r.Exit != apitype.ExitOK {
			t.Fatalf("after the loss of node %d: %+v", lost, r)
		}
	}
	mustGet(t, api, "estate", value)
}
