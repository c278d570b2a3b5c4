# Everything a person does with this repository. `make run` is the place to begin.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.PHONY: help all run deps aegisd aegis krun-worker harness kernel nested-kernel nested base-rootfs aarch64 test unit integration conformance servers fuzz bench lint deny docs clean

export AEGIS_ASSETS ?= $(HOME)/.aegis
export CARGO_TERM_QUIET ?= false
export CMD

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

all: aegisd aegis kernel harness base-rootfs ## Build everything and prepare the guest's parts

run: deps ## Install what is missing, build, prepare, start the daemon, and say hello from a machine
	@$(MAKE) --no-print-directory all
	scripts/hello

deps: ## Say which system packages are missing, and install them
	@scripts/dependencies

aegisd: ## Build the daemon, and the gateway that is the other end of guests' network cards
	@cargo build --release --package aegisd --package aegis-gateway
	install -D -m 0755 target/release/aegisd bin/aegisd
	install -D -m 0755 target/release/aegis-gateway bin/aegis-gateway

aegis: ## Build the command line client
	@cargo build --release --package aegis-cli
	install -D -m 0755 target/release/aegis bin/aegis

krun-worker: ## Build the program that runs libkrun's machines, for aegis up --backend libkrun
	@cargo build --release --locked --manifest-path crates/aegis-krun-worker/Cargo.toml --target-dir target/krun
	install -D -m 0755 target/krun/release/aegis-krun-worker bin/aegis-krun-worker

harness: kernel ## Build PID 1 of the guest, and the initramfs with it and the kernel's modules
	@guest/initramfs/build

kernel: ## Build the guest kernel (cached)
	@guest/kernel/build

nested-kernel: ## Build the kernel of the outer machine in which tests find a genuine /dev/kvm (cached)
	@guest/kernel/build nested

nested: nested-kernel ## Run CMD in that outer machine, which sees this one's files: make nested CMD='aegis doctor'
	@scripts/dependencies test
	tests/nested/run --env "PATH=$(CURDIR)/bin:$(PATH)" bash -c "$$CMD"

base-rootfs: ## Build the default root file system (cached)
	@cargo build --release --package aegis-erofs
	guest/base-rootfs/build

aarch64: ## Prepare an aarch64 guest beside the host's own (cached); AEGIS_GUEST_ARCH=aarch64 boots it
	@scripts/dependencies aarch64
	cargo build --release --package aegis-erofs
	export ARCH=aarch64 AEGIS_ASSETS=$(AEGIS_ASSETS)/aarch64
	guest/kernel/build
	guest/initramfs/build
	guest/base-rootfs/build

test: unit integration ## Run all tests; SHORT=1 skips the slow ones

unit: ## Fast tests; boot no machine
	@cargo test --workspace --exclude aegis-tests --exclude aegis-benches

integration: all ## Tests that boot real machines; SHORT=1 skips the slow ones
	@scripts/dependencies test
	@tests/grpc/build
	@if [ "$$(uname -m)" = x86_64 ]; then guest/kernel/build nested; fi
	@export AEGIS_TEST_TIMES=$$(mktemp)
	trap 'scripts/test-times $$AEGIS_TEST_TIMES; rm -f $$AEGIS_TEST_TIMES' EXIT
	cargo test --package aegis-tests -- --test-threads $${TEST_THREADS:-2}
	tests/as-user takeover named_directories isolation

conformance: all krun-worker ## What every backend promises, tried on each that can run here; BACKENDS="fake qemu+tcg" for some
	@scripts/dependencies test
	@guest/kernel/build nested
	tests/conformance/run $(BACKENDS)

servers: all ## Tests with real databases and Docker, some minutes more than the others take
	@scripts/dependencies test
	@cargo test --package aegis-tests -- --ignored --test-threads 1 databases:: docker::

fuzz: ## Feed each parser of untrusted bytes what coverage finds; FUZZ_SECONDS=60 for longer, FUZZ=NAME for some
	@fuzz/run $${FUZZ_SECONDS:-10} $(FUZZ)

bench: all ## Measure, each figure beside its yardstick; ROUNDS=5 for a quick look, ONLY=router for a part
	@scripts/dependencies test
	@scripts/dependencies bench
	cargo build --release --package aegis-tests --bin fake-guest
	cargo build --release --package aegis-benches
	target/release/aegis-benches

lint: ## Formatting and lints, warnings denied
	@cargo fmt --all --check
	cargo fmt --check --manifest-path crates/aegis-krun-worker/Cargo.toml
	cargo clippy --workspace --all-targets -- --deny warnings
	scripts/check-sources

deny: ## Licences, duplicates and sources of all dependencies
	@scripts/deny

docs: aegisd aegis ## Generate docs/CLI.md and docs/openapi.json
	@bin/aegis markdown-help > docs/CLI.md
	bin/aegisd openapi > docs/openapi.json

clean: ## Remove what was built here; prepared guest parts stay
	@rm -rf bin target
