# Every command of the project. `make test` needs a Rust toolchain and nothing else.

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release/image-store
VENV := $(CARGO_TARGET_DIR)/e2e/venv

.PHONY: help run test lint e2e bench bench-hop loadtest loadtest-smoke chaos lambda cfn-lint coldstart

help: ## Say what there is
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Build and start the service, with the embedded S3 in data/
	$(CARGO) run --release --locked --bin image-store

test: ## Everything cargo alone can prove
	$(CARGO) test --locked

lint: ## Formatting, clippy and rustdoc, warnings denied; the dependencies' licences and advisories
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	.ci/deny.sh

e2e: $(BIN) loadtest-smoke ## What needs more than cargo; installs what it needs
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r tests/e2e/requirements.txt
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/httpx_client.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/description.py
	NO_BUILD=1 loadtest/memory.sh
	BIN=$(BIN) tests/e2e/run.sh
	BIN=$(BIN) tests/e2e/nginx.sh
	deploy/lint.sh
	BIN=$(BIN) tests/e2e/seaweedfs.sh
	BIN=$(BIN) UPLOADS=600 loadtest/chaos.sh

# AWS_LC_SYS_NO_JITTER_ENTROPY: gathering that entropy is milliseconds of every cold start; the kernel's is enough.
# LAMBDA_TARGET: another processor's, where a linker for it is there (aarch64-unknown-linux-gnu for arm64).
LAMBDA := $(CARGO_TARGET_DIR)/lambda/image-store
LAMBDA_TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')
lambda: export AWS_LC_SYS_NO_JITTER_ENTROPY = 1
lambda: ## The Lambda function: target/lambda/image-store/bootstrap and its zip
	$(CARGO) build --locked --profile lambda --no-default-features --bin image-store --target $(LAMBDA_TARGET)
	mkdir -p $(LAMBDA)
	cp $(CARGO_TARGET_DIR)/$(LAMBDA_TARGET)/lambda/image-store $(LAMBDA)/bootstrap
	deploy/zip.py $(LAMBDA)/bootstrap $(LAMBDA).zip

cfn-lint: ## Check what is in deploy/
	deploy/lint.sh

coldstart: lambda ## Cold start of the function beside the Python service's
	$(CARGO) build --release --locked -p loadtest-tools
	loadtest/coldstart/run.sh

bench: ## Criterion: form bytes to parts; whole uploads in process
	$(CARGO) bench --locked --bench parts --bench upload

bench-hop: ## The service as a hop beside nginx; RUNS=7, CHECK=1 holds it to its targets
	loadtest/hop.sh

loadtest: ## k6 scripts and crowds of clients, with their invariants
	loadtest/run.sh
	loadtest/crowd.sh

loadtest-smoke: ## Ten seconds through every door
	loadtest/run.sh smoke

chaos: $(BIN) ## Uploads while the store fails and processes are killed, every one accounted for; UPLOADS=10000, SEED=…
	BIN=$(BIN) loadtest/chaos.sh

.PHONY: $(BIN)
$(BIN):
	$(CARGO) build --release --locked
