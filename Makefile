# make build   one kubectl-aiprof with the profiler inside: target/release/kubectl-aiprof
# make demo    records a small Python HTTP server under load and prints the report
# make test    everything that a change must pass (the end-to-end part needs root)
# make bench   what a capture costs, compared in one run (make bench-vllm: on a real vLLM)
# make clean   leaves the downloads of target/e2e
#
# Each installs what it lacks and is quick the second time.

ARCH := $(shell uname -m)
TRIPLE := $(ARCH)-unknown-linux-gnu
TRIPLE_ENV := $(shell echo $(TRIPLE) | tr 'a-z-' 'A-Z_')
PROFILER := target/profiler-image/$(ARCH)/aiprof-profiler
PLUGIN := target/release/kubectl-aiprof
VENV := target/e2e/venv/bin
TESTS ?= e2e/tests
PYTEST_FLAGS ?=

.PHONY: build profiler demo test bench bench-vllm lint units doc-tests e2e e2e-cluster deny clean setup-build setup-test
.DEFAULT_GOAL := build
MAKEFLAGS += --no-print-directory

setup-build:
	@scripts/setup/debian.sh cc:build-essential
	@scripts/setup/rust-src.sh
	@scripts/setup/bpf-linker.sh

setup-test: setup-build
	@scripts/setup/debian.sh chromium npm:npm unshare:util-linux setpriv:util-linux podman runc
	@scripts/setup/node.sh
	@scripts/setup/python.sh
	@scripts/setup/cargo-deny.sh

# Static, so that it runs in any container. Copied only when it changed: the plugin is rebuilt when the file is.
profiler: setup-build
	CARGO_TARGET_$(TRIPLE_ENV)_RUSTFLAGS="-C target-feature=+crt-static" \
		cargo build --locked --profile profiler -p aiprof-profiler --target $(TRIPLE)
	@mkdir -p $(dir $(PROFILER))
	@cmp -s target/$(TRIPLE)/profiler/aiprof-profiler $(PROFILER) || cp target/$(TRIPLE)/profiler/aiprof-profiler $(PROFILER)

build: profiler
	cargo build --locked --release -p kubectl-aiprof
	@echo "built $(PLUGIN)"

demo: build
	@AIPROF=$(PLUGIN) scripts/demo.sh

test: setup-test lint deny units doc-tests e2e

# The in-kernel programs are for another target, and so have a run of their own.
lint: setup-build
	cargo fmt --all --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked -p aiprof-e2e --all-targets -- -D warnings
	RUSTC_BOOTSTRAP=1 cargo clippy --locked -p aiprof-ebpf --profile bpf --target bpfel-unknown-none -Zbuild-std=core \
		--target-dir target/bpf -- -D warnings

# As root these include the tests of the in-kernel programs; without, those say that they were left out.
units: setup-build
	@if cargo nextest --version >/dev/null 2>&1; then set -x; cargo nextest run --locked; \
	else set -x; cargo test --locked --all-targets; fi

doc-tests: setup-build
	cargo test --locked --doc

# It looks into crates of all systems, of which a build fetches only its own.
deny:
	@scripts/setup/cargo-deny.sh
	cargo fetch --locked
	cargo deny --offline --locked check licenses bans sources

e2e: build setup-test
	AIPROF=$(abspath $(PLUGIN)) $(VENV)/python -m pytest $(PYTEST_FLAGS) $(TESTS)
	AIPROF=$(abspath $(PLUGIN)) scripts/e2e-cluster.sh

# The part of it that needs a cluster, alone.
e2e-cluster: build
	AIPROF=$(abspath $(PLUGIN)) scripts/e2e-cluster.sh

bench: build setup-test
	AIPROF=$(abspath $(PLUGIN)) $(VENV)/python benches/overhead.py --json target/e2e/overhead.json

# Installs some 7 GB.
bench-vllm: build setup-test
	AIPROF=$(abspath $(PLUGIN)) $(VENV)/python benches/vllm.py

clean:
	cargo clean --profile dev
	cargo clean --release
	rm -rf target/profiler-image target/$(TRIPLE)
