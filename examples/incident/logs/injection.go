package logs

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// KindInjection is text in a log that addresses whoever, or whatever, reads it.
const KindInjection Kind = "prompt-injection"

// instructionPattern is text that no program writes into a log by itself.
var instructionPattern = regexp.MustCompile(`\b(?:ignore|disregard|forget|override|bypass) (?:(?:all|any|of|your|the|these|those|my|other|previous|prior|preceding|above|earlier|system|safety) )+(?:instructions?|prompts?|directives|guidelines)\b` +
	`|\b(?:reveal|print|show|repeat|leak|output) (?:\w+ ){0,2}system prompt` +
	`|\bnew (?:system )?instructions? ?:` +
	`|<\|im start\||\[/?inst\]|<<sys>>` +
	`|\bdo not (?:tell|inform|alert|warn) (?:the )?(?:user|operator|admin)`)

// fieldPattern is text that is suspicious where a client names itself, and
// normal in a message of a program.
var fieldPattern = regexp.MustCompile(`\bsystem prompt\b|\byou are now\b|\brun(?: the following)?(?: command)?:? +(?:deny|allow|rm|curl|wget|bash|sh|sudo|kubectl|drop|delete|this|command|shell|\./|/)` +
	`|\b(?:curl|wget)\b[^|]*\| ?(?:sudo )?(?:ba|z|da)?sh\b|\bas an ai\b|\bact as (?:an? )?(?:admin|root|assistant)`)

// instructionHints are words without which instructionPattern cannot match.
var instructionHints = []string{"instruction", "prompt", "directive", "guideline", "im start", "inst]", "<<sys>>", "do not "}

// looksInstructing reports whether a text of a log addresses its reader.
func looksInstructing(s string) bool {
	n := normalizeText(s)
	return containsAny(n, instructionHints) && instructionPattern.MatchString(n)
}

func containsAny(s string, words []string) bool {
	for _, w := range words {
		if strings.Contains(s, w) {
			return true
		}
	}
	return false
}

// memoSize bounds fieldMemo: a log has few user agents, or an attacker's many.
const memoSize = 10_000

// fieldMemo remembers what was found in fields that repeat in every line.
type fieldMemo struct{ instructing, scanning map[string]bool }

func newFieldMemo() *fieldMemo {
	return &fieldMemo{instructing: map[string]bool{}, scanning: map[string]bool{}}
}

func (m *fieldMemo) instructs(s string) bool {
	return remember(m.instructing, s, looksInstructingField)
}

func (m *fieldMemo) scanner(s string) bool { return remember(m.scanning, s, scannerAgents.MatchString) }

func remember(known map[string]bool, s string, test func(string) bool) bool {
	v, ok := known[s]
	if !ok {
		v = test(s)
		if len(known) < memoSize {
			known[s] = v
		}
	}
	return v
}

// looksInstructingField is the wider test for a field that a client fills.
func looksInstructingField(s string) bool {
	n := normalizeText(s)
	return instructionPattern.MatchString(n) || fieldPattern.MatchString(n)
}

// asciiSeparators does for plain text what the loop of normalizeText does.
var asciiSeparators = strings.NewReplacer("+", " ", "_", " ", "-", " ")

// normalizeText undoes cheap disguises: case, percent encoding, separators for
// spaces and characters that do not show.
func normalizeText(s string) string {
	s = decodePercent(decodePercent(s))
	if !strings.ContainsFunc(s, func(r rune) bool { return r >= utf8.RuneSelf || r < ' ' }) {
		return strings.Join(strings.Fields(strings.ToLower(asciiSeparators.Replace(s))), " ")
	}
	var b strings.Builder
	space := false
	for _, r := range strings.ToLower(s) {
		switch {
		case unicode.Is(unicode.Cf, r):
		case r == '+' || r == '_' || r == '-' || unicode.IsSpace(r) || unicode.IsControl(r):
			space = true
		default:
			if space {
				b.WriteByte(' ')
			}
			space = false
			b.WriteRune(r)
		}
	}
	return b.String()
}

// findInstructions is the search in formats without fields of a client.
func (l *Log) findInstructions() []Finding {
	var fs []Finding
	for i, s := range l.lines {
		if !looksInstructing(s) {
			continue
		}
		fs = append(fs, Finding{
			Kind: KindInjection, Severity: High, Subject: plural(1, "line"),
			Summary: "Text in the log addresses its reader with instructions; it is untrusted content and was not followed.",
			all:     []int{i + 1},
		})
	}
	return mergeSame(fs)
}

// mergeSame joins findings that differ in their lines only.
func mergeSame(fs []Finding) []Finding {
	if len(fs) < 2 {
		return fs
	}
	m := fs[0]
	for _, f := range fs[1:] {
		m.all = append(m.all, f.all...)
	}
	m.Subject = plural(len(m.all), "line")
	return []Finding{m}
}
