# Every target works in a clean clone with Go, make, git and a C compiler. Tools are pinned in tools/go.mod and built into ./bin.
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
# generate empties gen/, which nothing may read at that moment.
.NOTPARALLEL:
MAKEFLAGS += --no-builtin-rules --no-print-directory

# Packages built or tested at once. GOFLAGS and GOMAXPROCS of the environment are respected.
P ?= 2
GO ?= go
# How long each fuzz target runs, and how often race and soak repeat the tests.
FUZZTIME ?= 30s
COUNT ?= 3
SOAKCOUNT ?= 20
SOAKFUZZ ?= 10m
# Flags of the load generator, such as -rounds 15 -in-flight 16; -h lists them.
HAMMER ?=
# Examples with a proto module of their own.
EXAMPLES := hello incident
# Narrow test, race, bench and lint to some packages: make test PKG=./identity/...
PKG ?= ./...

BIN := $(CURDIR)/bin
GENERATORS := $(BIN)/protoc-gen-go $(BIN)/protoc-gen-go-grpc $(BIN)/protoc-gen-connect-go $(BIN)/protoc-gen-go-vtproto
LAST_TAG = $(shell git describe --tags --abbrev=0 --match 'v[0-9]*' 2>/dev/null)

.DEFAULT_GOAL := help

.PHONY: help
help: ## Print each target with one sentence.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: check
check: tidy-check generate-diff vectors-diff breaking fmt-check lint vet archtest ## Run every check of CI other than the tests; run it before handing in.

.PHONY: test
test: need-cc ## Run all tests under the race detector in random order.
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 20m -p $(P) $(PKG)
	@$(MAKE) mutants
	tools/conformance.sh

.PHONY: conformance
conformance: ## Hold the Python verifier of conformance/python to the vectors; installs its one library into bin/ when it is missing.
	tools/conformance.sh

.PHONY: mutants
mutants: ## Switch the checks of the demo, delegation and interceptors off one at a time: a test must notice each. Part of test.
	$(GO) test -tags mutants -shuffle=on -timeout 20m -run TestDemoNoticesEachMissingCheck ./examples/incident
	$(GO) test -tags mutants -timeout 20m -p 1 -run TestEachCheckIsNeeded ./delegation ./interceptors

.PHONY: race
race: need-cc ## Hunt for races: run all tests COUNT (3) times on 1, 2 and 4 processors.
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 60m -p $(P) -count=$(COUNT) -cpu=1,2,4 $(PKG)

.PHONY: lint
lint: $(BIN)/golangci-lint ## Run golangci-lint with .golangci.yml.
	$(BIN)/golangci-lint run --concurrency=$(P) $(PKG)

.PHONY: fmt
fmt: $(BIN)/golangci-lint $(BIN)/buf ## Format Go (gofumpt, goimports) and proto files.
	$(BIN)/golangci-lint fmt
	$(BIN)/buf format -w

.PHONY: fmt-check
fmt-check: $(BIN)/golangci-lint $(BIN)/buf ## Fail when a Go or proto file is not formatted.
	$(BIN)/golangci-lint fmt --diff
	$(BIN)/buf format --diff --exit-code

.PHONY: vet
vet: ## Run go vet.
	$(GO) vet -p $(P) $(PKG)

.PHONY: archtest
archtest: ## Check the house rules: floors, guarded modules, globals, lengths, comments.
	$(GO) test -count=1 ./internal/archtest/...

.PHONY: generate
generate: $(BIN)/buf $(GENERATORS) ## Lint the proto files and generate gen/ and the examples' gen/ from them.
	$(BIN)/buf lint
	PATH="$(BIN):$$PATH" $(BIN)/buf generate
	for e in $(EXAMPLES); do PATH="$(BIN):$$PATH" $(BIN)/buf generate --template examples/$$e/buf.gen.yaml || exit 1; done
	PATH="$(BIN):$$PATH" $(BIN)/buf generate internal/meshtest/testproto --config internal/meshtest/testproto/workspace.yaml \
		--template internal/meshtest/testproto/buf.gen.yaml

.PHONY: generate-diff
generate-diff: generate ## Generate again and fail when gen/ differs from what is committed.
	@git diff --exit-code -- gen examples/*/gen internal/meshtest/meshpb || { echo "gen/ differs from its proto files: run 'make generate' and commit the result" >&2; exit 1; }
	@new="$$(git ls-files --others --exclude-standard -- gen examples/*/gen internal/meshtest/meshpb)"; \
	if [ -n "$$new" ]; then printf 'generated but not committed:\n%s\n' "$$new" >&2; exit 1; fi

.PHONY: vectors
vectors: ## Write conformance/vectors again from their generator.
	$(GO) run ./internal/vectors/vectorscmd -out conformance/vectors

.PHONY: vectors-diff
vectors-diff: vectors ## Generate the vectors again and fail when they differ from what is committed.
	@git diff --exit-code --stat -- conformance/vectors || { echo "conformance/vectors differs from its generator: run 'make vectors' and commit the result" >&2; exit 1; }
	@new="$$(git ls-files --others --exclude-standard -- conformance/vectors)"; \
	if [ -n "$$new" ]; then printf 'generated but not committed:\n%s\n' "$$new" >&2; exit 1; fi

.PHONY: breaking
breaking: $(BIN)/buf ## Fail when a proto file breaks the wire format of the last release.
	@if [ -z "$(LAST_TAG)" ]; then \
		echo "buf breaking: skipped, because there is no release yet to compare with"; \
	else \
		echo "buf breaking --against tag $(LAST_TAG)"; \
		$(BIN)/buf breaking --against '.git#tag=$(LAST_TAG)'; \
	fi

.PHONY: tidy-check
tidy-check: ## Fail when go.mod or go.sum of either module is not tidy.
	$(GO) mod tidy -diff
	cd tools && $(GO) mod tidy -diff

.PHONY: bench
bench: ## Run the benchmarks, then measure enforced calls beside raw ones (docs/performance.md); HAMMER holds its flags.
	$(GO) test -run '^$$' -bench . -benchmem -p 1 -timeout 60m $(PKG)
	$(GO) build -o $(BIN)/hammer ./internal/hammer/hammercmd
	$(BIN)/hammer $(HAMMER)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (30s).
	@targets="$$($(GO) test -p $(P) -list '^Fuzz' $(PKG) | awk '/^Fuzz/ { f[n++] = $$1; next } $$1 == "ok" { for (i = 0; i < n; i++) print $$2, f[i]; n = 0 }')"; \
	if [ -z "$$targets" ]; then echo "fuzz: found no target in $(PKG)"; exit 0; fi; \
	while read -r pkg target; do \
		echo "fuzz $$pkg $$target"; \
		$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) -fuzzminimizetime 20x -parallel $(P) "$$pkg"; \
	done <<< "$$targets"

.PHONY: soak
soak: need-cc ## Long run: all tests SOAKCOUNT (20) times under the race detector, the mutants, then each fuzz target for SOAKFUZZ (10m).
	SAFECONDUCT_SOAK=1 CGO_ENABLED=1 $(GO) test -race -timeout 1h -count=1 ./runtime
	CGO_ENABLED=1 $(GO) test -race -shuffle=on -timeout 12h -p $(P) -count=$(SOAKCOUNT) $(PKG)
	@$(MAKE) mutants
	@$(MAKE) fuzz FUZZTIME=$(SOAKFUZZ)

.PHONY: stubs
stubs: $(BIN)/buf $(GENERATORS) ## Generate and check Go, Python and TypeScript stubs as another repository would; needs python3, npm and their registries.
	tools/stubs.sh

.PHONY: spire
spire: need-cc ## Run the plane and agents under a real SPIRE; SPIRE_BIN names the folder with spire-server and spire-agent. Not part of test.
	@SPIRE_BIN="$${SPIRE_BIN:-}"; for p in spire-server spire-agent; do \
		[ -n "$$SPIRE_BIN" ] && [ -x "$$SPIRE_BIN/$$p" ] || { echo "spire: no $$p in SPIRE_BIN='$$SPIRE_BIN': set SPIRE_BIN to the folder with the programs of SPIRE, see docs/spire.md" >&2; exit 1; }; \
	done
	SPIRE_BIN="$$(cd "$$SPIRE_BIN" && pwd)" CGO_ENABLED=1 $(GO) test -race -count=1 -v -timeout 15m -run '^TestSPIRE' ./internal/spiretest

.PHONY: clean
clean: ## Remove the built tools and test leftovers.
	rm -rf $(BIN) coverage.* *.test *.prof

.PHONY: need-cc
need-cc:
	@cc="$$($(GO) env CC)"; command -v "$${cc%% *}" >/dev/null || { \
		echo "the race detector needs cgo and a C compiler, and '$$cc' was not found: install gcc or clang, or set CC" >&2; exit 1; }

# A tool is built when it is missing or its pin has changed.
TOOLS_MOD := tools/go.mod tools/go.sum

$(BIN)/buf: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ github.com/bufbuild/buf/cmd/buf && touch $@
$(BIN)/protoc-gen-go: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ google.golang.org/protobuf/cmd/protoc-gen-go && touch $@
$(BIN)/protoc-gen-go-grpc: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ google.golang.org/grpc/cmd/protoc-gen-go-grpc && touch $@
$(BIN)/protoc-gen-connect-go: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ connectrpc.com/connect/cmd/protoc-gen-connect-go && touch $@
$(BIN)/protoc-gen-go-vtproto: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ github.com/planetscale/vtprotobuf/cmd/protoc-gen-go-vtproto && touch $@
# The first build takes minutes.
$(BIN)/golangci-lint: $(TOOLS_MOD)
	cd tools && $(GO) build -p $(P) -o $@ github.com/golangci/golangci-lint/v2/cmd/golangci-lint && touch $@
