# Holdfast. `make demo` and `make test` do all the set-up they need on a
# machine that has nothing but Go (and, for what is not in Go, root on Debian
# or the packages they name).

GO       ?= go
BIN      := bin
PG       ?= 15 18
VERSIONS ?= 13 14 15 16 17 18

# All but cmd/holdfast, whose tests run the product's binary in processes of
# their own, which a race detector in the test does not see
# (HOLDFAST_TEST_RACE=1 builds one into that binary).
IN_PROCESS = $$($(GO) list ./... | grep -v /cmd/holdfast)

.PHONY: all build servers demo test lint bench matrix fuzz clean

all: build

# One static binary, no cgo.
build:
	CGO_ENABLED=0 $(GO) build -trimpath -o $(BIN)/holdfast ./cmd/holdfast

# Throwaway servers, into the cache directory; quick when already there.
servers:
	$(GO) run ./testcontainers/provision $(addprefix postgres@,$(PG))

# The main job on a real PostgreSQL, from nothing to a drill's verdict.
demo: build
	$(GO) run ./testcontainers/provision postgres@18
	$(GO) run ./cmd/demo -binary $(BIN)/holdfast -postgres 18

# Everything CI runs: in-process tests under the race detector, the binary's
# end-to-end tests, and the seeded crash tests whole (fewer seeds under -race).
test: build servers
	$(GO) run ./testcontainers/provision faketime docker image:postgres@15
	$(GO) vet ./...
	CGO_ENABLED=1 $(GO) test -race -timeout 30m $(IN_PROCESS)
	$(GO) test -timeout 45m ./cmd/holdfast
	$(GO) test -timeout 20m -run 'Crash|Fence' ./internal/agent ./wal/...

# The layers and style rules of .golangci.yml; the first run builds the linter.
lint:
	$(GO) build -C tools -o ../$(BIN)/golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint
	$(BIN)/golangci-lint run ./...

# Beside pgBackRest, interleaved; the log feed; the stream: commit to durable,
# CPU and memory, and what a commit waits for. Prints the tables kept in
# docs/benchmarks.md.
bench: build
	$(GO) run ./testcontainers/provision postgres@15 pgbackrest
	$(GO) run ./cmd/bench -binary $(BIN)/holdfast
	$(GO) run ./cmd/bench -binary $(BIN)/holdfast -rounds 3 feed
	$(GO) run ./cmd/bench -binary $(BIN)/holdfast stream
	$(GO) run ./cmd/bench -binary $(BIN)/holdfast -rounds 5 commit

# The end-to-end tests on every PostgreSQL version that can be had.
matrix: build
	$(GO) run ./testcontainers/provision $(addprefix postgres@,$(VERSIONS))
	HOLDFAST_TEST_PG="$(VERSIONS)" $(GO) test -timeout 60m ./cmd/holdfast/ ./engines/postgres/

# Each fuzz target for a short while.
fuzz:
	@for p in $$($(GO) list ./...); do \
	  for f in $$($(GO) test -list '^Fuzz' $$p | grep '^Fuzz'); do \
	    echo "== $$p $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $${FUZZTIME:-20s} $$p || exit 1; \
	  done; done

clean:
	rm -rf $(BIN) demo-records
