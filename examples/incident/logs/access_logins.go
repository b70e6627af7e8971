package logs

import "fmt"

// findLogins looks for one client that guesses passwords.
func (l *Log) findLogins(c *clientStats) *Finding {
	var failed, posted, passed []int
	paths := map[string]bool{}
	for _, i := range c.all {
		e := &l.access[i]
		post := e.method == "POST" && loginPath.MatchString(e.path)
		switch {
		case e.status == 401, post && (e.status == 403 || e.status == 400 || e.status == 422 || e.status == 429):
			failed = append(failed, i)
			paths[e.path] = true
		case post && e.status == 200:
			posted = append(posted, i)
		}
	}
	for _, i := range c.all {
		e := &l.access[i]
		// A page that was refused before and is served now, or a login form
		// that redirects.
		if paths[e.path] && (e.status/100 == 2 || e.status == 302 || e.status == 303) && (e.method == "POST" || !loginPath.MatchString(e.path)) ||
			e.method == "POST" && loginPath.MatchString(e.path) && (e.status == 302 || e.status == 303) {
			passed = append(passed, i)
		}
	}
	idx := l.guesses(failed, posted, passed)
	if idx == nil {
		return nil
	}
	summary := fmt.Sprintf("%s for a login were refused", plural(len(idx), "request"))
	if len(failed) < LoginFailMin {
		summary = fmt.Sprintf("%s for a login within %s of each other", plural(len(idx), "request"), LoginWindow)
	}
	sev := Medium
	for _, i := range passed {
		if i > idx[LoginFailMin-1] {
			sev = High
			summary += fmt.Sprintf(", then line %d was accepted", l.access[i].no)
			idx = append(idx, i)
			break
		}
	}
	f := l.clientFinding(KindLoginAttack, sev, c, idx, summary+".")
	return &f
}

// guesses returns the requests that are guesses, or nil when they are few or
// mostly answered challenges.
func (l *Log) guesses(failed, posted, passed []int) []int {
	if len(failed) >= LoginFailMin {
		if len(failed) > 2*len(passed) {
			return failed
		}
		return nil
	}
	idx, times := l.byTime(posted)
	var out []int
	for j, m := range marked(times, LoginWindow, LoginPostMin) {
		if m {
			out = append(out, idx[j])
		}
	}
	return out
}
