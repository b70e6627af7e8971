package archtest

import "testing"

// Every room has one row in the guard table, and every row guards a room that stands on a floor.
func TestTablesAgree(t *testing.T) {
	rooms := map[string]int{}
	for _, f := range floors {
		for _, r := range f.rooms {
			rooms[r]++
		}
	}
	for r, n := range rooms {
		if n != 1 {
			t.Errorf("room %s stands on %d floors", r, n)
		}
	}
	rows := map[string]bool{}
	for _, g := range guards {
		if rows[g.room] {
			t.Errorf("room %s has two rows", g.room)
		}
		rows[g.room] = true
		if rooms[g.room] == 0 {
			t.Errorf("guard row %s: no such room", g.room)
		}
	}
	for r := range rooms {
		if !rows[r] {
			t.Errorf("room %s has no guard row", r)
		}
	}
}
