# `make` lists the targets. CI runs `make test`, and nothing that is not here.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

CARGO ?= cargo
# Where everything that is built or installed goes; the tools of the tests stay in a folder of it.
CARGO_TARGET_DIR ?= $(CURDIR)/target
TIDEGATE_TOOLS ?= $(CARGO_TARGET_DIR)/tools
export CARGO_TARGET_DIR TIDEGATE_TOOLS

# What the client checks and the browser test import.
export TIDEGATE_PYTHON := $(TIDEGATE_TOOLS)/venv/bin/python
export TIDEGATE_NODE_MODULES := $(TIDEGATE_TOOLS)/clients/node_modules
# What builds plugins in JavaScript and Python.
export TIDEGATE_JS_TOOLS := $(TIDEGATE_TOOLS)/guests-js
export TIDEGATE_COMPONENTIZE_PY := $(TIDEGATE_TOOLS)/guests-py/bin/componentize-py
# Tools of ours come after the machine's own.
export PATH := $(PATH):$(TIDEGATE_TOOLS)/bin

.PHONY: help run test tools check fmt clippy docs deny rust sdk clients openapi bench fuzz plugins plugins-check

help: ## lists the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

run: ## builds a node and runs it with the tenant demo, no Redis needed
	$(CARGO) build --locked
	exec "$(CARGO_TARGET_DIR)/debug/tidegate" dev $(ARGS)

test: tools check rust sdk clients openapi ## everything that CI checks; installs what it needs

check: fmt clippy docs deny ## formatting, lints, documentation, dependencies; warnings are errors

tools: ## installs what the tests need; quick when it is there
	scripts/install-test-tools.sh

fmt: ## formatting
	$(CARGO) fmt --all --check

clippy: ## lints
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings -D clippy::too_many_lines

docs: ## documentation builds without a warning
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --document-private-items --locked

deny: ## licences, banned crates and sources of dependencies
	scripts/install-test-tools.sh cargo-deny
	$(CARGO) deny --locked check bans licenses sources

# The node that the tests run, too: features differ from those of a plain build, and so would all dependencies.
tests := $(CARGO) test -p tidegate -p tidegate-support --locked

rust: ## Rust tests
	$(tests)

sdk: ## the JavaScript SDK: types, unit tests, a real node, and dist is what its sources make
	$(tests) --no-run
	cd sdk/js && npm ci --no-audit --no-fund && npm run check-dist && \
	    TIDEGATE_NODE_BIN="$(CARGO_TARGET_DIR)/debug/tidegate" npm test

clients: ## examples and the live page, against a real redis-server, a node and a real browser
	$(tests) --no-run
	$(TIDEGATE_PYTHON) scripts/check-clients.py "$(CARGO_TARGET_DIR)/debug/tidegate"

openapi: ## docs/openapi.json against a node: made-up requests, and no answer that is not described
	$(tests) --no-run
	$(TIDEGATE_PYTHON) scripts/check-openapi.py "$(CARGO_TARGET_DIR)/debug/tidegate"

bench: ## measures a release build against the budgets; ARGS=--help lists what it takes
	benches/run.sh $(ARGS)

fuzz: ## lets every decoder meet invented input, a minute each; FUZZ_SECONDS and FUZZ_TARGETS change that
	scripts/fuzz.sh

plugins: ## builds the plugins in Rust and puts each beside its sources
	scripts/build-plugins.sh

plugins-check: ## the built plugins beside their sources are what these build; new plugins in Rust are built
	scripts/build-plugins.sh --check
	$(tests) --no-run
	scripts/check-new-plugins.sh "$(CARGO_TARGET_DIR)/debug/tidegate"
