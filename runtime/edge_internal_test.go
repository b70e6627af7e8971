package runtime

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
)

// A connection to the edge ends with the first request after its age, so that its client comes with the SVID that it has by then.
func TestEdgeConnectionsAreCutForTheirAge(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		age  time.Duration
		want string
	}{"young": {time.Hour, ""}, "old": {-time.Second, "close"}} {
		served := false
		h := agedConns{age: c.age, next: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served = true })}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/", http.NoBody).WithContext(h.connContext(t.Context(), nil)))
		if got := w.Header().Get("Connection"); got != c.want || !served {
			t.Errorf("%s: Connection %q, served %v, want %q", name, got, served, c.want)
		}
	}
}
