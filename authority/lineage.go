package authority

import (
	"errors"
	"fmt"
)

const (
	// maxLineage bounds the walk to the first process; deeper trees are refused.
	maxLineage = 128
	// lineageTries bounds restarts when a process of the tree ends during the walk.
	lineageTries = 8
)

var errLineageMoved = errors.New("process tree changed during the walk")

// lineage returns the number of p and of all its ancestors, nearest first. Every link is read between two looks at pinned
// processes, so a reused number cannot slip in. A tree that does not hold still is an error.
func lineage(p *process) ([]int, error) {
	for range lineageTries {
		pids, err := walkLineage(p)
		if !errors.Is(err, errLineageMoved) {
			return pids, err
		}
		if !p.alive() {
			return nil, fmt.Errorf("%w: pid %d has gone", ErrUnattested, p.pid)
		}
	}
	return nil, fmt.Errorf("%w: %w", ErrUnattested, errLineageMoved)
}

func walkLineage(p *process) ([]int, error) {
	pids := []int{p.pid}
	current := p
	defer func() {
		if current != p {
			current.close()
		}
	}()
	for range maxLineage {
		number, err := parentOf(current)
		if err != nil {
			return nil, err
		}
		if number <= 0 {
			return pids, nil
		}
		parent, err := openProcess(number)
		if err != nil {
			return nil, errLineageMoved
		}
		// Still the parent after it was pinned: the pin is on the parent, not on a later process of the same number.
		again, err := parentOf(current)
		if err != nil || again != number {
			parent.close()
			return nil, errLineageMoved
		}
		if current != p {
			current.close()
		}
		current = parent
		pids = append(pids, number)
	}
	return nil, fmt.Errorf("%w: over %d ancestors", ErrUnattested, maxLineage)
}

// parentOf is process.parent of a process that is alive afterwards.
func parentOf(p *process) (int, error) {
	number, err := p.parent()
	if err != nil || !p.alive() {
		return 0, errLineageMoved
	}
	return number, nil
}
