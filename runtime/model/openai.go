package model

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"
)

const (
	// maxAnswer bounds a response, decompressed.
	maxAnswer = 1 << 20
	// defaultTimeout is for a whole completion; large models take tens of seconds.
	defaultTimeout = 60 * time.Second
	// endpoint is what the protocol puts below its base address.
	endpoint = "/chat/completions"
	// withheld is printed in place of a key.
	withheld = "(withheld)"
)

// OpenAI is a Model behind an endpoint that speaks the chat completions protocol, as most model servers do. It is safe for
// concurrent use as long as nobody changes it.
type OpenAI struct {
	// URL is the base address, such as https://models.example/v1, or that of the endpoint itself. It is https; plain http is
	// allowed to a loopback address only, because prompt and key would be readable on the way.
	URL string
	// Model is the name that the endpoint knows it by.
	Model string
	// Key is the bearer token, empty for none. Callers read it from an environment variable that the operator names. It leaves in
	// the Authorization header only: printing, logging or encoding an OpenAI does not show it, and errors never contain it.
	Key string `json:"-"`
	// Client makes the requests; nil is a default one. Its own rule for redirects is not used: none is followed, because prompt
	// and key would go where nobody configured.
	Client *http.Client `json:"-"`
	// Timeout bounds one completion; 0 is a minute.
	Timeout time.Duration
}

var _ Model = OpenAI{}

type chatMessage struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

type chatRequest struct {
	Model    string        `json:"model"`
	Messages []chatMessage `json:"messages"`
}

type chatResponse struct {
	Choices []struct {
		Message struct {
			Content *string `json:"content"`
		} `json:"message"`
		FinishReason string `json:"finish_reason"`
	} `json:"choices"`
}

// Complete implements Model with one request, which is never repeated. Errors wrap ErrConfig, ErrPrompt, ErrEndpoint, or the
// error of a context that ended. They contain neither the key, nor the prompt, nor anything that the endpoint said.
func (o OpenAI) Complete(ctx context.Context, p Prompt) (string, error) {
	target, err := o.target()
	if err != nil {
		return "", err
	}
	if err := p.check(); err != nil {
		return "", err
	}
	system, user := p.Messages()
	body := chatRequest{Model: o.Model}
	if system != "" {
		body.Messages = append(body.Messages, chatMessage{"system", system})
	}
	body.Messages = append(body.Messages, chatMessage{"user", user})
	raw, err := json.Marshal(body)
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrPrompt, err)
	}
	timeout := o.Timeout
	if timeout <= 0 {
		timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer, err := o.post(ctx, target, raw)
	if err != nil {
		return "", err
	}
	return content(answer)
}

// target is the address to post to.
func (o OpenAI) target() (string, error) {
	u, err := url.Parse(o.URL)
	switch {
	case o.URL == "" || o.Model == "":
		return "", fmt.Errorf("%w: URL and model name are required", ErrConfig)
	case err != nil || u.Host == "" || u.Opaque != "": // the text of a parse error would show what may be a secret
		return "", fmt.Errorf("%w: the URL does not parse", ErrConfig)
	case u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return "", fmt.Errorf("%w: the URL has user info, a query or a fragment; the key belongs in Key", ErrConfig)
	case u.Scheme != "https" && (u.Scheme != "http" || !loopback(u.Hostname())):
		return "", fmt.Errorf("%w: the URL is neither https nor on loopback", ErrConfig)
	case strings.ContainsFunc(o.Key, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", fmt.Errorf("%w: the key has spaces or unprintable characters", ErrConfig)
	}
	u.Path = strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), endpoint) + endpoint
	u.RawPath = ""
	return u.String(), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// post returns the body of a successful response.
func (o OpenAI) post(ctx context.Context, target string, raw []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(raw))
	if err != nil {
		return nil, fmt.Errorf("%w: the URL does not make a request", ErrConfig)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Accept", "application/json")
	if o.Key != "" {
		req.Header.Set("Authorization", "Bearer "+o.Key)
	}
	client := http.Client{}
	if o.Client != nil {
		client = *o.Client
	}
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	client.Jar = nil
	res, err := client.Do(req)
	if err != nil {
		return nil, failed(ctx, err)
	}
	defer func() { _ = res.Body.Close() }()
	switch {
	case res.StatusCode >= 300 && res.StatusCode < 400:
		return nil, fmt.Errorf("%w: HTTP status %d, and redirects are not followed", ErrEndpoint, res.StatusCode)
	case res.StatusCode != http.StatusOK:
		return nil, fmt.Errorf("%w: HTTP status %d", ErrEndpoint, res.StatusCode)
	}
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer+1))
	switch {
	case err != nil:
		return nil, failed(ctx, err)
	case len(answer) > maxAnswer:
		return nil, fmt.Errorf("%w: more than %d bytes", ErrEndpoint, maxAnswer)
	}
	return answer, nil
}

// failed keeps of a transport's error what is safe to show: the kind. Its text may quote addresses, headers or the peer.
func failed(ctx context.Context, err error) error {
	var dns *net.DNSError
	var timeout net.Error
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ErrEndpoint, ctx.Err())
	case errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Errorf("%w: it took too long", ErrEndpoint)
	case errors.As(err, &dns):
		return fmt.Errorf("%w: its name does not resolve", ErrEndpoint)
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: no connection", ErrEndpoint)
	}
	return fmt.Errorf("%w: the connection failed", ErrEndpoint)
}

// content takes the text out of a response.
func content(raw []byte) (string, error) {
	var res chatResponse
	if json.Unmarshal(raw, &res) != nil { // its text could quote the body
		return "", fmt.Errorf("%w: the response is not of the protocol", ErrEndpoint)
	}
	if len(res.Choices) == 0 || res.Choices[0].Message.Content == nil || *res.Choices[0].Message.Content == "" {
		return "", fmt.Errorf("%w: the response has no text", ErrEndpoint)
	}
	switch res.Choices[0].FinishReason {
	case "length", "content_filter":
		return "", fmt.Errorf("%w: the text is not complete", ErrEndpoint)
	}
	return *res.Choices[0].Message.Content, nil
}

// String describes the model without its key.
func (o OpenAI) String() string {
	key := ""
	if o.Key != "" {
		key = " with a key"
	}
	return fmt.Sprintf("model %q at %s%s", o.Model, o.place(), key)
}

// Format implements fmt.Formatter: every verb prints String.
func (o OpenAI) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, o.String()) }

// LogValue implements slog.LogValuer.
func (o OpenAI) LogValue() slog.Value {
	key := ""
	if o.Key != "" {
		key = withheld
	}
	return slog.GroupValue(slog.String("model", o.Model), slog.String("url", o.place()), slog.String("key", key))
}

// place is the URL as far as it can be shown.
func (o OpenAI) place() string {
	u, err := url.Parse(o.URL)
	if err != nil {
		return "an unreadable URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}
