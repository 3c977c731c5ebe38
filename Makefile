# The one front door. `make` alone lists what there is.
# Needed: Rust and a C compiler. Whatever else a target wants it sets up by itself below target/.

SHELL := /usr/bin/env bash
CARGO ?= cargo

.DEFAULT_GOAL := help
.PHONY: help run test test-fast check fmt lint deny doc bench bench-control bench-orders e2e image

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

run: ## build, serve examples/quickstart on 127.0.0.1:8080 and :8443, until Ctrl-C
	$(CARGO) build --release --locked --package gatehouse
	@scripts/quickstart

test: ## every test, end to end included
	@scripts/test-setup
	$(CARGO) test --workspace --locked

test-fast: ## the same without the tests on a Kubernetes API server, and without building one
	@scripts/test-setup namespaces acme
	$(CARGO) test --workspace --locked --lib --bins --test '[!k]*'

check: fmt lint deny doc ## format, lints, dependencies, documentation: what CI runs beside the tests

fmt: ## is everything formatted?
	$(CARGO) fmt --all --check

lint: ## clippy, warnings are errors
	$(CARGO) clippy --workspace --all-targets --locked -- --deny warnings

deny: ## licences, bans and sources of dependencies (builds cargo-deny once, a few minutes)
	@scripts/deny licenses bans sources

doc: ## does the documentation build without a warning?
	RUSTDOCFLAGS="--deny warnings" $(CARGO) doc --workspace --no-deps --locked

bench: ## against nginx of the distribution, see docs/performance.md
	@python3 benches/bench.py

bench-control: ## the control plane on a real API server: start, memory, how soon a change answers
	@python3 benches/control.py

bench-orders: ## what clients notice while a thousand certificates are ordered from Pebble
	@python3 benches/orders.py

image: ## an OCI image of the release binary, written to target/image without a container engine
	$(CARGO) build --release --locked --package gatehouse
	@scripts/image

e2e: ## as root: both modes on two real nodes, pods replaced under load, every lost request counted (PLAN=short takes minutes)
	@scripts/cluster $(or $(PLAN),full)
