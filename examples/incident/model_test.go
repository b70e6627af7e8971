package incident

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// The planner asks an OpenAI-compatible endpoint when one is named. Only what parses as a bounded rule comes into force, whatever it
// answers; the findings reach it as untrusted text.
func TestPlannerAsksTheNamedModel(t *testing.T) {
	var asked string
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		raw, _ := io.ReadAll(r.Body)
		asked = string(raw) + r.Header.Get("Authorization")
		answer, _ := json.Marshal(map[string]any{"choices": []any{map[string]any{
			"finish_reason": "stop",
			"message":       map[string]any{"role": "assistant", "content": "Sure!\ndeny client=0.0.0.0/0\ndeny client=203.0.113.7\nrm -rf /"},
		}}})
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(answer)
	}))
	defer endpoint.Close()
	t.Setenv("TEST_MODEL_KEY", "secret-key")
	r, out, err := runDemo(t, func(o *Options) { o.ModelURL, o.Model, o.ModelKeyEnv = endpoint.URL, "any", "TEST_MODEL_KEY" })
	if err != nil {
		t.Fatalf("Run() = %v\n%s", err, out)
	}
	if r.Applied == nil || strings.Join(r.Applied.Rules, ",") != "deny client=203.0.113.7" || r.Effects != 1 {
		t.Errorf("applied %v, %d rules in force, want the one rule that is a rule", r.Applied, r.Effects)
	}
	for _, want := range []string{"203.0.113.7", "Bearer secret-key"} {
		if !strings.Contains(asked, want) {
			t.Errorf("the endpoint was not told %q", want)
		}
	}
	if strings.Contains(out, "secret-key") {
		t.Error("the key is in the output")
	}
}
