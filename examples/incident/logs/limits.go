package logs

import "time"

// Default bounds of Read.
const (
	// MaxBytes bounds the input, counted after decompression: more than a busy
	// day of one server, and small enough to hold in memory.
	MaxBytes = 32 << 20
	// MaxLines bounds the entries that are held at once.
	MaxLines = 500_000
	// MaxLineBytes bounds one line. The longest line a web server writes by
	// default has two 8 KiB fields.
	MaxLineBytes = 16 << 10
)

// Bounds of what is reported.
const (
	// MaxEvidence is the number of line numbers listed with a finding; the
	// total is always given too.
	MaxEvidence = 20
	// MaxPerKind is the number of findings of one kind; the rest are merged
	// into one more, so that a thousand attackers do not hide other findings.
	MaxPerKind = 20
	// MaxRules is the number of rules that Propose returns.
	MaxRules = 20
	// maxExcerpt is the length of an excerpt in runes: two lines of a report.
	maxExcerpt = 150
	// maxSubject is the length of a subject that is not an address, in runes.
	maxSubject = 48
)

// Thresholds of the web access log. A client is named by the first field.
const (
	// ProbeMin is the number of probes by one client that make it a scanner.
	// Fewer are reported together, as background noise, with low severity.
	ProbeMin = 3
	// ScanNotFoundMin and ScanDistinctMin: so many refused requests (400, 403,
	// 404, 405), for so many different paths, and at least half of what the
	// client asked for, are a scan even when no path is a known probe.
	ScanNotFoundMin = 20
	ScanDistinctMin = 10
	// LoginFailMin is the number of refused logins by one client. They must
	// also be more than twice its accepted ones: clients that answer a
	// challenge produce one refusal for each success.
	LoginFailMin = 10
	// LoginPostMin is the number of logins answered with 200 (which many forms
	// send with the error message) by one client within LoginWindow.
	LoginPostMin = 20
	LoginWindow  = 10 * time.Minute
	// BurstMin 5xx answers within BurstWindow, and at least BurstPercent of
	// all answers then, are a burst.
	BurstMin     = 10
	BurstWindow  = time.Minute
	BurstPercent = 20
	// ServerErrorMin 5xx answers outside bursts are reported with low severity.
	ServerErrorMin = 10
	// FloodMin requests of one client within FloodWindow, and FloodFactor
	// times the median peak of at least FloodOthers other clients, are a flood.
	FloodMin    = 120
	FloodWindow = time.Minute
	FloodFactor = 10
	FloodOthers = 3
	// NotFoundMin 404 answers that are at least NotFoundPercent of all
	// requests are reported with low severity.
	NotFoundMin     = 50
	NotFoundPercent = 20
	// ClientNotFoundMin 404 answers to one client, at least half of what it
	// asked for and for too few paths to be a scan, are reported with low
	// severity: it keeps asking for what is gone.
	ClientNotFoundMin = 30
	// GarbageMin requests that are not HTTP are reported with low severity.
	GarbageMin = 3
)

// Thresholds of syslog and journal text.
const (
	// BruteForceMin failed sign-ins from one source. A person who mistypes a
	// password is stopped by sshd after three.
	BruteForceMin = 5
	// SpreadMin failed sign-ins from at least SpreadSources sources, each
	// under BruteForceMin, are one finding together.
	SpreadMin     = 20
	SpreadSources = 5
	// SudoFailMin wrong sudo passwords of one user.
	SudoFailMin = 3
	// LocalFailMin failed sign-ins without a remote source by one program.
	LocalFailMin = 5
	// RestartMin restarts of one unit by systemd are a loop.
	RestartMin = 3
	// ConnectionMin connections of one source to one daemon within
	// BurstWindow.
	ConnectionMin = 10
	// ProgramErrorMin error messages of one program.
	ProgramErrorMin = 5
)

// Thresholds of dpkg and apt logs.
const (
	// BulkRemoveMin packages removed for good are unusual.
	BulkRemoveMin = 20
	// BulkChangeMin packages in one run, and BulkFactor times the median of at
	// least BulkRuns runs, are unusual. A run ends with runGap of silence.
	BulkChangeMin = 100
	BulkFactor    = 10
	BulkRuns      = 5
	runGap        = 10 * time.Minute
)

// Thresholds of generic logs.
const (
	// ErrorMediumMin error lines raise the finding from low to medium.
	ErrorMediumMin = 10
	// WarningMin warnings are reported, as information.
	WarningMin = 20
	// TemplateBurstMin error or warning lines of one template within
	// BurstWindow are a burst.
	TemplateBurstMin = 10
)

// Limits bounds Read. A zero field means the default above.
type Limits struct {
	Bytes     int64 // bytes of text, after decompression
	Lines     int
	LineBytes int
}

func (l Limits) withDefaults() Limits {
	if l.Bytes <= 0 {
		l.Bytes = MaxBytes
	}
	if l.Lines <= 0 {
		l.Lines = MaxLines
	}
	if l.LineBytes <= 0 {
		l.LineBytes = MaxLineBytes
	}
	return l
}
