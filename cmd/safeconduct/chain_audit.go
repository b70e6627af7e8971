package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/safeconduct/safeconduct/audit"
	"github.com/safeconduct/safeconduct/internal/chaintext"
)

// readRecord finds the chain of a record: the record names it, and the same log holds it as it was presented, in the record that
// spelled it out.
func (s *chainSource) readRecord(cmd *cobra.Command) (reading, error) {
	if (s.id == "") == (s.seq < 0) {
		return reading{}, usagef("name the record: --id HEX, or --audit DIR --seq N")
	}
	if s.seq >= 0 && len(s.audit) != 1 {
		return reading{}, usagef("--seq numbers the records of one log; give one --audit DIR")
	}
	dirs, err := logDirs(cmd, s.audit)
	if err != nil {
		return reading{}, err
	}
	rec, err := s.find(dirs)
	if err != nil {
		return reading{}, err
	}
	ev := rec.Event
	r := reading{at: time.Unix(0, ev.GetTimeUnixNs()), links: ev.GetChain()}
	r.Reference = ev.GetChainRef()
	if len(r.Reference) == 0 && ev.GetPresented() == nil {
		return reading{}, usagef("record %d was made under no chain", rec.Seq)
	}
	if err := r.resolve(dirs, rec); err != nil {
		return reading{}, err
	}
	if r.Chain == nil && len(r.links) == 0 {
		return reading{}, usagef("record %d names the chain %x; no record of the log spells it out any more", rec.Seq, r.Reference)
	}
	return r, nil
}

// find returns the record that was asked for. Several may carry an id; they must agree on the chain.
func (s *chainSource) find(dirs []string) (audit.Record, error) {
	var id [16]byte
	if s.id != "" {
		var err error
		if id, err = idArg(s.id); err != nil {
			return audit.Record{}, err
		}
	}
	var found audit.Record
	for rec, err := range audit.Concat(readLogs(dirs)...) {
		if err != nil {
			return found, cannotRead(err)
		}
		if s.seq >= 0 {
			if rec.Seq == uint64(s.seq) {
				return rec, nil
			}
			continue
		}
		switch {
		case !carries(rec.Event, id) || len(rec.Event.GetChainRef()) == 0:
		case found.Event == nil:
			found = rec
		case string(found.Event.GetChainRef()) != string(rec.Event.GetChainRef()):
			return found, usagef("records %d and %d carry that id under different chains; name one with --audit DIR --seq N", found.Seq, rec.Seq)
		}
	}
	switch {
	case found.Event != nil:
		return found, nil
	case s.seq >= 0:
		return found, usagef("the log in %s has no record %d", s.audit[0], s.seq)
	}
	return found, fmt.Errorf("no record with that id was made under a chain: %w", cannotRead(audit.ErrNotFound))
}

// resolve looks for the bytes of the chain, or at least its links, in the log of rec.
func (r *reading) resolve(dirs []string, rec audit.Record) error {
	for other, err := range audit.Concat(readLogs(dirs)...) {
		if err != nil {
			return cannotRead(err)
		}
		ev := other.Event
		if other.LogID != rec.LogID || string(ev.GetChainRef()) != string(r.Reference) {
			continue
		}
		if len(r.links) == 0 {
			r.links = ev.GetChain()
		}
		if c := ev.GetPresented(); c != nil {
			r.Found = chaintext.Found{Chain: c, Form: fmt.Sprintf("evidence in audit record %d", other.Seq), Reference: r.Reference}
			return nil
		}
	}
	return nil
}
