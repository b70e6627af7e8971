//go:build race

package runtime_test

// raceDetector says that this binary runs many times slower.
const raceDetector = true
