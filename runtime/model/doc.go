// Package model is where a language model plugs into an agent. An agent asks a [Model] for text and decides itself what to do with
// it; nothing here calls tools, holds authority or lifts a label. [Rules] is a model made of code, for agents that must answer
// the same way every time, for tests, and for meshes without a model; [OpenAI] asks any endpoint that speaks the chat completions
// protocol.
//
// What a model returns is made of what it was given. A prompt with text from others makes an answer by others, and the agent's
// conversation keeps the label that it took when it read that text. No check of the mesh counts on the model to tell data from
// instructions, or on the markers of [Prompt.Messages] to help it: permits, labels and chains hold when the model is fooled.
package model
