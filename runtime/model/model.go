package model

import (
	"context"
	"errors"
)

var (
	// ErrPrompt is returned for a prompt that cannot be sent.
	ErrPrompt = errors.New("prompt refused")
	// ErrConfig is returned for a model that is not set up.
	ErrConfig = errors.New("model is not set up")
	// ErrEndpoint is returned when the model's endpoint does not answer as a model. The error names the HTTP status at most.
	ErrEndpoint = errors.New("model endpoint did not answer")
)

// Model completes prompts. Implementations are safe for concurrent use and return when ctx ends.
type Model interface {
	Complete(ctx context.Context, p Prompt) (string, error)
}

// Rules is a Model made of code. It should be deterministic. Nil is refused with ErrConfig.
type Rules func(ctx context.Context, p Prompt) (string, error)

// Complete implements Model.
func (r Rules) Complete(ctx context.Context, p Prompt) (string, error) {
	if r == nil {
		return "", ErrConfig
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	return r(ctx, p)
}
