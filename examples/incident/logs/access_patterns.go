package logs

import (
	"regexp"
	"strings"
)

// Kinds of findings in a web access log.
const (
	KindPathProbe     Kind = "path-probe"
	KindLoginAttack   Kind = "credential-stuffing"
	KindServerErrors  Kind = "server-errors"
	KindErrorBurst    Kind = "server-error-burst"
	KindFlood         Kind = "request-flood"
	KindTraversal     Kind = "path-traversal"
	KindSQLInjection  Kind = "sql-injection"
	KindScript        Kind = "cross-site-scripting"
	KindCommand       Kind = "command-injection"
	KindScannerAgent  Kind = "scanner-agent"
	KindNotFoundShare Kind = "many-not-found"
	KindGarbage       Kind = "not-http"
)

// secretPaths are asked for only by somebody who looks for a leak or a hole,
// whatever the answer.
var secretPaths = []string{
	"/.env", "/.git/", "/.svn/", "/.hg/", "/.aws/", "/.ssh/", "/.htpasswd", "/.htaccess", "/.ds_store",
	"/.vscode/", "/.docker", "/.bash_history", "/id_rsa", "/wp-config", "/vendor/phpunit", "/eval-stdin",
	"/boaform", "/hnap1", "/gponform", "/_ignition/", "/invoker/", "/w00tw00t", "/muieblackcat",
	"/dana-na/", "/remote/fgt_lang", "/thinkphp", "/c99.php", "/cgi-bin/luci", "/nmaplowercheck",
}

// appPaths are applications that scanners look for. Where they exist their
// users ask for them too, so only a refusal makes a probe.
var appPaths = []string{
	"/wp-login", "/wp-admin", "/wp-includes", "/wp-content", "/wordpress", "/xmlrpc.php", "/phpmyadmin",
	"/pma", "/myadmin", "/mysqladmin", "/phppgadmin", "/adminer", "/sqlmanager", "/dbadmin",
	"/solr/admin", "/actuator", "/manager/html", "/jmx-console", "/owa/auth", "/autodiscover",
	"/telescope", "/phpinfo", "/info.php", "/server-status", "/scripts/setup", "/setup.cgi",
	"/cgi-bin/", "/shell", "/administrator/", "/admin.php", "/geoserver", "/druid", "/nacos",
	"/config.json", "/backup", "/console/", "/evox/about", "/sdk", "/azenv", "/jenkins", "/user/register",
}

// isProbe reports whether e asks for a path that scanners ask for, and whether
// it is one that must never be served.
func isProbe(e *accessEntry) (probe, secret bool) {
	p := strings.ToLower(e.path)
	if strings.HasSuffix(p, "/.git") {
		return true, true
	}
	for _, s := range secretPaths {
		if strings.Contains(p, s) {
			return true, true
		}
	}
	if e.status < 400 || e.status > 499 {
		return false, false
	}
	for _, s := range appPaths {
		if strings.HasPrefix(p, s) {
			return true, false
		}
	}
	return false, false
}

var (
	traversalPattern = regexp.MustCompile(`\.\.[/\\]+\.\.[/\\]|[?=&](?:[^ ]*[^. ])?\.\.[/\\]|/etc/(?:passwd|shadow)|/proc/self/|(?:win|boot)\.ini`)
	encodedPattern   = regexp.MustCompile(`%2e%2e|(?:^|[^.])\.\.%(?:25)?(?:2f|5c)`)
	sqlPattern       = regexp.MustCompile(`\bunion[\s/*!()]+(?:all[\s/*!()]+)?select\b|\binformation_schema\b|['")]\s*(?:or|and)\s+['"(]*\w+['"]*\s*(?:=|like|<|>)|\b(?:or|and)\s+(\d+)\s*=\s*\d+|\b(?:sleep|benchmark|pg_sleep|extractvalue|updatexml|xp_cmdshell|load_file)\s*\(|;\s*(?:drop|delete|insert|update|truncate)\s+(?:table|from|into|\w+\s+set)\b|\bwaitfor\s+delay\b|'\s*(?:--|#)`)
	scriptPattern    = regexp.MustCompile(`<\s*/?script|javascript:[^/]|[\s"'/<]on(?:error|load|mouseover|click|focus)\s*=|<\s*(?:svg|img|iframe|body)[\s/>]|document\.cookie|\balert\s*\(`)
	commandPattern   = regexp.MustCompile("\\$\\{jndi:|\\(\\)\\s*\\{\\s*:?|(?:[;|`]|&&)\\s*(?:wget|curl|cat|id|uname|nc|bash|sh|ping|nslookup|rm|chmod|whoami)(?:[^=\\w]|$)|\\$\\((?:id|wget|curl|cat|whoami|uname)|/bin/(?:ba)?sh\\b|php://(?:input|filter)|allow_url_include|auto_prepend_file|cmd\\.exe|<\\?php|\\bbase64_decode\\s*\\(|\\bsystem\\s*\\(\\s*['\"$]|(?:wget|curl)\\s+(?:-\\S+\\s+)*https?://")
	headerPattern    = regexp.MustCompile(`\$\{(?:jndi|lower|upper|env|::-)|\(\)\s*\{`)
)

// payloadKind returns the kind of attack that the request carries, or "".
func payloadKind(e *accessEntry) Kind {
	if hasHeaderPayload(e.agent) || hasHeaderPayload(e.referer) {
		return KindCommand
	}
	if !strings.ContainsAny(e.target, "%'\"<>;|$`()\\+ ") && !strings.Contains(e.target, "..") && !strings.Contains(e.target, "/etc/") && !strings.Contains(e.target, "://") {
		return ""
	}
	raw := strings.ToLower(e.target)
	s := strings.ReplaceAll(decodePercent(decodePercent(raw)), "+", " ")
	s = strings.ToLower(s)
	switch {
	case commandPattern.MatchString(s):
		return KindCommand
	case sqlPattern.MatchString(s):
		return KindSQLInjection
	case scriptPattern.MatchString(s):
		return KindScript
	case traversalPattern.MatchString(s), encodedPattern.MatchString(raw):
		return KindTraversal
	}
	return ""
}

func hasHeaderPayload(s string) bool {
	return strings.Contains(s, "{") && headerPattern.MatchString(strings.ToLower(s))
}

// scannerAgents are tools that name themselves.
var scannerAgents = regexp.MustCompile(`(?i)\b(?:sqlmap|nikto|nmap|masscan|zgrab|dirbuster|dirb|gobuster|feroxbuster|ffuf|wpscan|nuclei|acunetix|nessus|openvas|hydra|whatweb|wfuzz|w3af|arachni|jorgee|zmeu|morfeus|havij|netsparker|burpsuite|joomscan|libredtail|l9explore|l9tcpid)\b`)

// loginPath is where people sign in.
var loginPath = regexp.MustCompile(`(?i)/(?:wp-login|xmlrpc|log[-_]?in|sign[-_]?in|log[-_]on|authenticate|j_security_check|auth/token|oauth/token)(?:\.[a-z]{2,5})?/?$`)
