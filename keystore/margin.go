package keystore

import (
	"fmt"
	"slices"
	"strings"
)

// margins fills in the three distances of a secret from trouble, counted in
// seats, and says in words how many operators or zones that takes. A negative
// distance does not exist: 0 means that it has happened.
func (i *Info) margins(r roster) {
	var good, up, all []SeatState
	for _, st := range i.Seats {
		all = append(all, st)
		if st.State == "good" {
			good = append(good, st)
		}
		if st.State != "unreachable" {
			up = append(up, st)
		}
	}
	i.Loses = max(0, len(good)-i.K+1)
	i.Leaks = i.K
	i.Stuck = max(0, len(up)-i.W+1)
	switch {
	case i.Loses == 0:
		i.LosesIf = fmt.Sprintf("cannot be recovered now: %d good seats can be reached and %d are needed", len(good), i.K)
	default:
		i.LosesIf = fmt.Sprintf("is lost if %d more of the %d good seats are lost: %s", i.Loses, len(good), hands(good, i.Loses, r))
	}
	i.LeaksIf = fmt.Sprintf("leaks if %d of the %d holders work together: %s", i.Leaks, i.N, hands(all, i.Leaks, r))
	switch {
	case i.Stuck == 0:
		i.StuckIf = fmt.Sprintf("cannot be written now: %d of its holders can be reached and %d are needed", len(up), i.W)
	default:
		i.StuckIf = fmt.Sprintf("cannot be written if %d more of its %d reachable holders are off: %s", i.Stuck, len(up), hands(up, i.Stuck, r))
	}
}

// hands says how few operators, and how few zones, together have need of the
// seats.
func hands(seats []SeatState, need int, r roster) string {
	few := func(label func(Member) string) (n int, names []string) {
		count := make(map[string]int)
		for _, st := range seats {
			m := r[st.Node]
			m.ID, m.Operator, m.Zone = st.Node, st.Operator, st.Zone
			count[label(m)]++
		}
		order := sortedKeys(count)
		slices.SortStableFunc(order, func(a, b string) int { return count[b] - count[a] })
		for got := 0; got < need && n < len(order); n++ {
			got += count[order[n]]
			names = append(names, order[n])
		}
		return n, names
	}
	operators, who := few(operator)
	zones, where := few(zone)
	return plural(operators, "operator", who) + ", or " + plural(zones, "zone", where)
}

func plural(n int, what string, names []string) string {
	if n == 1 {
		return "1 " + what + " (" + strings.TrimPrefix(names[0], what+" ") + ")"
	}
	return fmt.Sprintf("%d %ss", n, what)
}
