package model_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/safeconduct/safeconduct/runtime/model"
)

const key = "sk-very-secret-0123456789"

func endpoint(t *testing.T, h http.HandlerFunc) model.OpenAI {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return model.OpenAI{URL: s.URL + "/v1", Model: "small", Key: key, Client: s.Client()}
}

func say(w http.ResponseWriter, text string) {
	raw, _ := json.Marshal(text)
	_, _ = fmt.Fprintf(w, `{"id":"1","choices":[{"index":0,"message":{"role":"assistant","content":%s},"finish_reason":"stop"}]}`, raw)
}

func TestComplete(t *testing.T) {
	t.Parallel()
	var body struct {
		Model    string
		Messages []struct{ Role, Content string }
	}
	o := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost || r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer "+key ||
			r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "", http.StatusBadRequest)
			return
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil {
			t.Errorf("request: %v", err)
		}
		say(w, "42")
	})
	got, err := o.Complete(t.Context(), model.Prompt{System: "count", User: "how many?", Untrusted: []string{"a b c"}})
	if err != nil || got != "42" {
		t.Fatalf("Complete = %q, %v, want 42", got, err)
	}
	if body.Model != "small" || len(body.Messages) != 2 || body.Messages[0].Role != "system" || body.Messages[1].Role != "user" ||
		!strings.Contains(body.Messages[1].Content, "\na b c\n") || strings.Contains(body.Messages[0].Content, "a b c") {
		t.Errorf("request = %+v, want both messages and the untrusted text in the user's", body)
	}
	o.URL += "/chat/completions/" // the endpoint itself is as good as its base
	o.Client = nil
	if got, err := o.Complete(t.Context(), model.Prompt{User: "how many?"}); err != nil || got != "42" || len(body.Messages) != 1 {
		t.Errorf("Complete at %s = %q, %v with %d messages, want 42 with one", o.URL, got, err, len(body.Messages))
	}
}

// stop ends handlers that do not answer.
type stop chan struct{}

func newStop(t *testing.T) stop {
	s := make(stop)
	t.Cleanup(func() { close(s) })
	return s
}

func (s stop) wait(r *http.Request) {
	select {
	case <-s:
	case <-r.Context().Done():
	}
}

func TestHostileEndpoint(t *testing.T) {
	t.Parallel()
	answer := func(s string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, s) }
	}
	status := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) { // as some do, it repeats the key
			http.Error(w, "bad key "+r.Header.Get("Authorization"), code)
		}
	}
	huge := func(w io.Writer) {
		_, _ = io.WriteString(w, `{"choices":[{"message":{"content":"`)
		block := bytes.Repeat([]byte("a"), 64<<10)
		for range 64 { // 4 MiB
			if _, err := w.Write(block); err != nil {
				return
			}
		}
		_, _ = io.WriteString(w, `"}}]}`)
	}
	tests := []struct {
		name    string
		handler http.HandlerFunc
	}{
		{"unauthorized", status(http.StatusUnauthorized)},
		{"server error", status(http.StatusInternalServerError)},
		{"no content", status(http.StatusNoContent)},
		{"huge", func(w http.ResponseWriter, _ *http.Request) { huge(w) }},
		{"huge when decompressed", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			huge(z)
			_ = z.Close()
		}},
		{"cut off", func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "1000")
			_, _ = io.WriteString(w, `{"choices"`)
		}},
		{"hangs up", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }},
		{"nothing", answer("")},
		{"not JSON", answer("<html>" + key + "</html>")},
		{"another type", answer(`{"choices":"` + key + `"}`)},
		{"more after it", answer(`{"choices":[{"message":{"content":"a"}}]}{}`)},
		{"no choices", answer(`{"choices":[]}`)},
		{"no content in the choice", answer(`{"choices":[{"message":{"content":null,"tool_calls":[{"id":"x"}]},"finish_reason":"tool_calls"}]}`)},
		{"empty content", answer(`{"choices":[{"message":{"content":""}}]}`)},
		{"cut at the length limit", answer(`{"choices":[{"message":{"content":"a"},"finish_reason":"length"}]}`)},
		{"filtered", answer(`{"choices":[{"message":{"content":"a"},"finish_reason":"content_filter"}]}`)},
		{"deep nesting", answer(`{"x":` + strings.Repeat("[", 20000) + strings.Repeat("]", 20000) + `}`)},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			o := endpoint(t, tc.handler)
			got, err := o.Complete(t.Context(), model.Prompt{User: "question"})
			if !errors.Is(err, model.ErrEndpoint) || got != "" {
				t.Fatalf("Complete = %.40q, %v, want %v", got, err, model.ErrEndpoint)
			}
			if strings.Contains(err.Error(), key) || strings.Contains(err.Error(), "question") {
				t.Errorf("the error shows the key or the prompt: %v", err)
			}
		})
	}
}

func TestSlowEndpoint(t *testing.T) {
	t.Parallel()
	end := newStop(t)
	silent := func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body) // the server notices that a client has gone only when the body was read
		end.wait(r)
	}
	dripping := func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		_, _ = io.WriteString(w, `{"choices"`)
		_ = http.NewResponseController(w).Flush()
		end.wait(r)
	}
	for name, h := range map[string]http.HandlerFunc{"silent": silent, "dripping": dripping} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := endpoint(t, h)
			o.Timeout = 100 * time.Millisecond
			if _, err := o.Complete(t.Context(), model.Prompt{User: "u"}); !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, model.ErrEndpoint) {
				t.Errorf("Complete = %v, want %v", err, context.DeadlineExceeded)
			}
			o.Timeout = 0
			ctx, cancel := context.WithCancel(t.Context())
			timer := time.AfterFunc(50*time.Millisecond, cancel)
			defer timer.Stop()
			if _, err := o.Complete(ctx, model.Prompt{User: "u"}); !errors.Is(err, context.Canceled) {
				t.Errorf("Complete with an ended context = %v, want %v", err, context.Canceled)
			}
		})
	}
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		reached.Add(1)
		say(w, "stolen")
	}))
	t.Cleanup(elsewhere.Close)
	for _, code := range []int{301, 302, 303, 307, 308} {
		for _, to := range []string{elsewhere.URL, "/v1/again"} {
			o := endpoint(t, func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path == "/v1/again" {
					reached.Add(1)
					say(w, "again")
					return
				}
				http.SetCookie(w, &http.Cookie{Name: "track", Value: "1", Path: "/"})
				http.Redirect(w, r, to, code)
			})
			// A client that would follow anything keeps its own rules for other uses only.
			jar, err := cookiejar.New(nil)
			if err != nil {
				t.Fatal(err)
			}
			mine := func(*http.Request, []*http.Request) error { return nil }
			o.Client = &http.Client{CheckRedirect: mine, Jar: jar}
			if got, err := o.Complete(t.Context(), model.Prompt{User: "u"}); !errors.Is(err, model.ErrEndpoint) || got != "" {
				t.Errorf("Complete after %d to %s = %q, %v, want %v", code, to, got, err, model.ErrEndpoint)
			}
			if o.Client.CheckRedirect == nil || o.Client.Jar == nil {
				t.Error("the caller's client was changed")
			}
		}
	}
	if n := reached.Load(); n != 0 {
		t.Errorf("%d redirects were followed", n)
	}
}

func TestConfig(t *testing.T) {
	t.Parallel()
	ask := model.Prompt{User: "u"}
	tests := []struct {
		name   string
		o      model.OpenAI
		prompt model.Prompt
		want   error
	}{
		{"no URL", model.OpenAI{Model: "m"}, ask, model.ErrConfig},
		{"no model", model.OpenAI{URL: "https://models.test/v1"}, ask, model.ErrConfig},
		{"unparsable URL", model.OpenAI{URL: "https://models.test/%zz" + key, Model: "m"}, ask, model.ErrConfig},
		{"no host", model.OpenAI{URL: "https:///v1", Model: "m"}, ask, model.ErrConfig},
		{"opaque", model.OpenAI{URL: "https:models.test", Model: "m"}, ask, model.ErrConfig},
		{"plain http to another host", model.OpenAI{URL: "http://models.test/v1", Model: "m", Key: key}, ask, model.ErrConfig},
		{"plain http to another host without a key", model.OpenAI{URL: "http://192.0.2.1/v1", Model: "m"}, ask, model.ErrConfig},
		{"name that only begins like loopback", model.OpenAI{URL: "http://127.0.0.1.models.test/v1", Model: "m"}, ask, model.ErrConfig},
		{"file", model.OpenAI{URL: "file:///etc/passwd", Model: "m"}, ask, model.ErrConfig},
		{"key in the user info", model.OpenAI{URL: "https://u:" + key + "@models.test/v1", Model: "m"}, ask, model.ErrConfig},
		{"key in the query", model.OpenAI{URL: "https://models.test/v1?key=" + key, Model: "m"}, ask, model.ErrConfig},
		{"key with a newline", model.OpenAI{URL: "https://models.test/v1", Model: "m", Key: key + "\n"}, ask, model.ErrConfig},
		{"empty prompt", model.OpenAI{URL: "https://models.test/v1", Model: "m"}, model.Prompt{Untrusted: []string{""}}, model.ErrPrompt},
		{
			"oversize prompt",
			model.OpenAI{URL: "https://models.test/v1", Model: "m"},
			model.Prompt{User: "u", Untrusted: []string{strings.Repeat("a", 1<<19), strings.Repeat("a", 1<<19)}},
			model.ErrPrompt,
		},
	}
	for _, tc := range tests {
		tc.o.Client = &http.Client{Transport: unreachable{t}}
		got, err := tc.o.Complete(t.Context(), tc.prompt)
		if !errors.Is(err, tc.want) || got != "" {
			t.Errorf("%s: Complete = %q, %v, want %v", tc.name, got, err, tc.want)
		}
		if err != nil && strings.Contains(err.Error(), key) {
			t.Errorf("%s: the error shows the key: %v", tc.name, err)
		}
	}
}

// unreachable fails the test when a request is made.
type unreachable struct{ t *testing.T }

func (u unreachable) RoundTrip(r *http.Request) (*http.Response, error) {
	u.t.Errorf("a request to %s was made", r.URL.Host)
	return nil, http.ErrServerClosed
}

// leaky is a transport whose errors say everything they know.
type leaky struct{}

func (leaky) RoundTrip(r *http.Request) (*http.Response, error) {
	return nil, fmt.Errorf("sending %v to %s: %s", r.Header, r.URL, key)
}

func TestKeyIsNeverShown(t *testing.T) {
	t.Parallel()
	o := model.OpenAI{URL: "https://u:" + key + "@models.test/v1?k=" + key, Model: "small", Key: key}
	var log bytes.Buffer
	for _, h := range []slog.Handler{slog.NewTextHandler(&log, nil), slog.NewJSONHandler(&log, nil)} {
		l := slog.New(h)
		l.InfoContext(t.Context(), "model", slog.Any("model", o), slog.Any("pointer", &o))
	}
	encoded, err := json.Marshal(model.OpenAI{URL: "https://models.test/v1", Model: "small", Key: key, Client: http.DefaultClient})
	if err != nil {
		t.Fatal(err)
	}
	shown := log.String() + o.String() + string(encoded)
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		shown += fmt.Sprintf(verb, o) + fmt.Sprintf(verb, &o) + fmt.Sprintf(verb, []model.OpenAI{o})
	}
	o.URL, o.Client = "https://models.test/v1", &http.Client{Transport: leaky{}}
	_, err = o.Complete(t.Context(), model.Prompt{User: "u"})
	if !errors.Is(err, model.ErrEndpoint) {
		t.Fatalf("Complete = %v, want %v", err, model.ErrEndpoint)
	}
	for e := err; e != nil; e = errors.Unwrap(e) {
		shown += fmt.Sprintf("%v %+v %#v", e, e, e)
	}
	if strings.Contains(shown, key) || strings.Contains(shown, fmt.Sprintf("%x", key)) {
		t.Errorf("the key is shown in %s", shown)
	}
	if !strings.Contains(shown, `model "small" at https://models.test/v1`) {
		t.Errorf("the model is not described in %s", shown)
	}
}

// endless is a response that never ends. It counts what is read of it.
type endless struct{ read, closed atomic.Int64 }

func (e *endless) RoundTrip(*http.Request) (*http.Response, error) {
	return &http.Response{StatusCode: http.StatusOK, Body: e, Header: http.Header{}}, nil
}

func (e *endless) Read(p []byte) (int, error) {
	e.read.Add(int64(len(p)))
	return copy(p, bytes.Repeat([]byte(" "), len(p))), nil
}

func (e *endless) Close() error {
	e.closed.Add(1)
	return nil
}

func TestAnswerIsReadUpToTheBound(t *testing.T) {
	t.Parallel()
	var e endless
	o := model.OpenAI{URL: "https://models.test/v1", Model: "small", Client: &http.Client{Transport: &e}}
	if _, err := o.Complete(t.Context(), model.Prompt{User: "u"}); !errors.Is(err, model.ErrEndpoint) {
		t.Errorf("Complete = %v, want %v", err, model.ErrEndpoint)
	}
	if n := e.read.Load(); n > 1<<20+1 || e.closed.Load() != 1 {
		t.Errorf("read %d bytes and closed %d times, want at most one more than 1 MiB and once", n, e.closed.Load())
	}
}
