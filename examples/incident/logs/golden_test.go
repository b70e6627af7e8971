package logs_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func readFile(t *testing.T, name string) *logs.Log {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l, err := logs.Read(f, logs.Limits{})
	if err != nil {
		t.Fatalf("Read(%s) = %v", name, err)
	}
	return l
}

// want is one finding, and the command that counts its lines independently.
type want struct {
	kind     logs.Kind
	severity logs.Severity
	subject  string
	total    int
	command  []string // without the file name; the output is the count
}

func grep(pattern string) []string { return []string{"grep", "-cE", pattern} }

func awk(program string) []string { return []string{"awk", program} }

// count runs a standard tool over a sample. The tools are part of any system
// that builds this, so a missing one fails the test instead of skipping it.
func count(t *testing.T, command []string, name string) int {
	t.Helper()
	path, err := exec.LookPath(command[0])
	if err != nil {
		t.Fatalf("%s is needed to check the findings independently: %v", command[0], err)
	}
	cmd := exec.CommandContext(t.Context(), path, append(slices.Clone(command[1:]), filepath.Join("testdata", name))...)
	out, err := cmd.Output()
	if err != nil && len(out) == 0 {
		t.Fatalf("%v: %v", command, err)
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatalf("%v printed %q", command, out)
	}
	return n
}

func TestFindingsMatchGrepAndAwk(t *testing.T) {
	tests := []struct {
		file    string
		format  logs.Format
		dialect string
		parsed  int
		command []string // counts the parsed lines
		want    []want
	}{
		{
			file: "access-attack.log", format: logs.FormatAccess, dialect: "combined", parsed: 308,
			command: grep(`^www.*" [0-9]{3} [0-9]+ "`),
			want: []want{
				{logs.KindCommand, logs.High, "203.0.113.201", 2, grep(`\{ :;|jndi:`)},
				{logs.KindSQLInjection, logs.High, "203.0.113.200", 2, grep(`' OR '1'|SLEEP\(`)},
				{logs.KindPathProbe, logs.High, "203.0.113.220", 1, grep(`/\.git/config`)},
				{logs.KindInjection, logs.High, "192.0.2.5", 1, grep(`Disregard`)},
				{logs.KindFlood, logs.Medium, "198.51.100.99", 150, awk(`$2=="198.51.100.99"{n++} END{print n}`)},
				{logs.KindPathProbe, logs.Medium, "2001:db8:bad::9", 31, awk(`tolower($2)~/^2001:db8:bad:/&&$10==404{n++} END{print n}`)},
				{logs.KindLoginAttack, logs.Medium, "198.51.100.77", 25, grep(`198\.51\.100\.77 .*POST /wp-login.php`)},
				{logs.KindScannerAgent, logs.Medium, "203.0.113.210", 4, grep(`sqlmap`)},
				{logs.KindGarbage, logs.Low, "3 requests", 3, grep(`"\\x16`)},
				{logs.KindPathProbe, logs.Low, "2 clients", 2, grep(`/php[Mm]y[Aa]dmin/`)},
			},
		},
		{
			file: "access-burst.log", format: logs.FormatAccess, dialect: "combined", parsed: 54,
			command: awk(`END{print NR}`),
			want:    []want{{logs.KindErrorBurst, logs.Medium, `"/api/pay"`, 14, awk(`$9~/^5/{n++} END{print n}`)}},
		},
		{file: "access-quiet.log", format: logs.FormatAccess, dialect: "common", parsed: 220, command: awk(`END{print NR}`)},
		{
			file: "syslog-auth.log", format: logs.FormatSyslog, dialect: "rfc3164", parsed: 46,
			command: grep(`^Nov  3 .* web1 [a-zA-Z]+(\[[0-9]+\])?: `),
			want: []want{
				{logs.KindBreakIn, logs.High, "2001:db8:66::1", 8, grep(`(Failed|Accepted) password .* from 2001:db8:66::1 `)},
				{logs.KindBruteForce, logs.Medium, "203.0.113.50", 20, grep(`(Failed password|Invalid user).* from 203\.0\.113\.50 `)},
				{logs.KindBruteForce, logs.Medium, "198.51.100.66", 6, grep(`Failed.* from 198\.51\.100\.66 port`)},
				{logs.KindSudo, logs.Medium, `"bob"`, 1, grep(`NOT in sudoers`)},
				{logs.KindSudo, logs.Low, `"eve"`, 1, grep(`incorrect password attempts`)},
			},
		},
		{
			file: "syslog-system.log", format: logs.FormatSyslog, dialect: "iso", parsed: 26,
			command: awk(`END{print NR}`),
			want: []want{
				{logs.KindDiskError, logs.High, `"sdb"`, 3, grep(`I/O error, dev sdb,`)},
				{logs.KindOutOfMemory, logs.High, `"java"`, 2, grep(`java.*oom-killer|Killed process`)},
				{logs.KindDiskError, logs.High, `"sdb1"`, 1, grep(`I/O error on dev sdb1`)},
				{logs.KindOutOfMemory, logs.High, `"memory"`, 1, grep(`by the OOM killer`)},
				{logs.KindReadOnly, logs.High, `"file system"`, 1, grep(`Remounting filesystem read-only`)},
				{logs.KindService, logs.Medium, `"tomcat.service"`, 8, grep(`tomcat.*(Main process exited|Failed with result)`)},
				{logs.KindRestartLoop, logs.Medium, `"tomcat.service"`, 5, grep(`Scheduled restart|repeated too quickly`)},
				{logs.KindCrash, logs.Medium, `"worker"`, 1, grep(`segfault at`)},
				{logs.KindDiskError, logs.Low, `"sr0"`, 1, grep(`dev sr0`)},
			},
		},
		{
			file: "syslog-5424.log", format: logs.FormatSyslog, dialect: "rfc5424", parsed: 9, command: grep(`^<[0-9]+>1 `),
			want: []want{
				{logs.KindBruteForce, logs.Medium, "203.0.113.60", 5, grep(`from 203\.0\.113\.60 `)},
				{logs.KindUrgent, logs.Medium, "1 message", 1, grep(`^<34>`)},
			},
		},
		{file: "syslog-quiet.log", format: logs.FormatSyslog, dialect: "rfc3164", parsed: 16, command: awk(`END{print NR}`)},
		{
			file: "dpkg-broken.log", format: logs.FormatDpkg, dialect: "dpkg.log", parsed: 55, command: awk(`END{print NR}`),
			want: []want{
				{
					logs.KindBrokenPackage, logs.High, "mysql-server:amd64", 1,
					awk(`$3=="status"{s[$5]=$4} END{for(p in s) if(s[p]!~/^(installed|config-files|not-installed)$/) n++; print n+0}`),
				},
				{logs.KindDowngrade, logs.Medium, "nginx:amd64", 1, grep(` upgrade nginx:amd64 1\.26\.0-1 1\.24\.0`)},
				{logs.KindRemoval, logs.Medium, "fail2ban:all", 1, grep(` remove fail2ban`)},
				{logs.KindDirectInstall, logs.Low, "agent-dropper:amd64", 1, awk(`$3=="startup"{d=($5=="install")} d&&$3=="install"{n++} END{print n+0}`)},
				{logs.KindRemoval, logs.Info, "1 package", 1, grep(` remove cowsay`)},
			},
		},
		{file: "dpkg-quiet.log", format: logs.FormatDpkg, dialect: "dpkg.log", parsed: 28, command: awk(`END{print NR}`)},
		{
			file: "history.log", format: logs.FormatDpkg, dialect: "history.log", parsed: 17, command: grep(`^[A-Z]`),
			want: []want{
				{logs.KindDowngrade, logs.Medium, "curl:amd64", 1, grep(`curl:amd64 \(.*u12, .*u9\)`)},
				{logs.KindDowngrade, logs.Medium, "vim:amd64", 1, grep(`^Downgrade: vim`)},
				{logs.KindPackageError, logs.Medium, "1 line", 1, grep(`^Error:`)},
				{logs.KindRemoval, logs.Medium, "auditd:amd64", 1, grep(`^Remove: auditd`)},
			},
		},
		{
			file: "term.log", format: logs.FormatDpkg, dialect: "term.log", parsed: 9, command: grep(`^([LSPUE(]|dpkg)`),
			want: []want{{logs.KindPackageError, logs.Medium, "2 lines", 2, grep(`^(dpkg: error|Errors were)`)}},
		},
		{
			file: "app.log", format: logs.FormatGeneric, dialect: "text", parsed: 45, command: grep(`^2026-`),
			want: []want{
				{logs.KindFatal, logs.High, "1 line", 1, grep(` FATAL `)},
				{logs.KindInjection, logs.High, "1 line", 1, grep(`ignore all previous`)},
				{logs.KindErrors, logs.Medium, "12 lines", 12, grep(` ERROR `)},
				{logs.KindStackTrace, logs.Medium, "2 traces", 2, grep(`^(java.io|Traceback)`)},
				{logs.KindBurst, logs.Low, `"* *,* ERROR [*] app.Store: write to shard * t"…`, 12, grep(`write to shard`)},
			},
		},
		{file: "app-quiet.log", format: logs.FormatGeneric, dialect: "text", parsed: 41, command: awk(`END{print NR}`)},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			l := readFile(t, tt.file)
			if l.Format != tt.format || l.Dialect != tt.dialect || l.Stats.Parsed != tt.parsed {
				t.Errorf("Read = %s, %s, %d parsed, want %s, %s, %d", l.Format, l.Dialect, l.Stats.Parsed, tt.format, tt.dialect, tt.parsed)
			}
			if n := count(t, tt.command, tt.file); n != tt.parsed {
				t.Errorf("%v counts %d parsed lines, want %d", tt.command, n, tt.parsed)
			}
			got := l.Findings()
			for i, f := range got {
				if i >= len(tt.want) {
					t.Errorf("finding %s %s %s on lines %v is not expected", f.Kind, f.Severity, f.Subject, f.Lines)
					continue
				}
				w := tt.want[i]
				if f.Kind != w.kind || f.Severity != w.severity || f.Subject != w.subject || f.Total != w.total {
					t.Errorf("finding %d = %s %s %s %d, want %s %s %s %d", i, f.Kind, f.Severity, f.Subject, f.Total, w.kind, w.severity, w.subject, w.total)
				}
				if n := count(t, w.command, tt.file); n != w.total {
					t.Errorf("%v counts %d lines, want %d", w.command, n, w.total)
				}
			}
			if len(got) < len(tt.want) {
				t.Errorf("%d findings, want %d", len(got), len(tt.want))
			}
		})
	}
}

// The lines of a finding are the very lines that grep finds, not only as many.
func TestLineNumbersMatchGrep(t *testing.T) {
	tests := []struct{ file, kind, pattern string }{
		{"access-attack.log", string(logs.KindSQLInjection), `' OR '1'|SLEEP\(`},
		{"access-burst.log", string(logs.KindErrorBurst), `" 503 `},
		{"syslog-auth.log", string(logs.KindBreakIn), `2001:db8:66::1`},
		{"syslog-system.log", string(logs.KindCrash), `segfault`},
		{"dpkg-broken.log", string(logs.KindDirectInstall), ` install agent-dropper`},
		{"history.log", string(logs.KindPackageError), `^Error`},
		{"app.log", string(logs.KindErrors), ` ERROR `},
	}
	for _, tt := range tests {
		t.Run(tt.file, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "grep", "-nE", tt.pattern, filepath.Join("testdata", tt.file)).Output()
			if err != nil {
				t.Fatalf("grep: %v", err)
			}
			var want []int
			for line := range bytes.Lines(out) {
				n, _, _ := bytes.Cut(line, []byte(":"))
				no, err := strconv.Atoi(string(n))
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, no)
			}
			fs := readFile(t, tt.file).Findings()
			i := slices.IndexFunc(fs, func(f logs.Finding) bool { return string(f.Kind) == tt.kind })
			if i < 0 || !slices.Equal(fs[i].Lines, want) {
				t.Errorf("%s has findings %v, want %s on lines %v", tt.file, fs, tt.kind, want)
			}
		})
	}
}
