# The commands of the project. `make test` requires only a Rust toolchain and a C compiler.

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release/image-store
VENV := $(CARGO_TARGET_DIR)/e2e/venv

.PHONY: help run test lint e2e bench bench-hop bench-peers loadtest loadtest-smoke chaos lambda lighthouse cfn-lint coldstart

help: ## List the commands
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Build and start the service, with the embedded S3 in data/
	$(CARGO) run --release --locked --bin image-store

test: ## Run all tests that require only cargo
	$(CARGO) test --locked

lint: ## Check formatting, clippy and rustdoc without warnings, and the licences and advisories of the dependencies
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets --features otlp -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items
	benches/features.sh
	.ci/deny.sh

# With the features that are not part of the default build, so that their tests need no build of their own.
e2e: export FEATURES = otlp
e2e: $(BIN) loadtest-smoke ## Run the tests that require more than cargo; installs what they require
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet -r tests/e2e/requirements.txt
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/httpx_client.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/description.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/generated_clients.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/traces.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/tus_client.py
	NO_BUILD=1 loadtest/memory.sh
	BIN=$(BIN) PYTHON=$(VENV)/bin/python GO=$(VENV)/bin/go tests/e2e/run.sh
	BIN=$(BIN) tests/e2e/documents.sh
	BIN=$(BIN) tests/e2e/proxies.sh
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/compose.py
	BIN=$(BIN) $(VENV)/bin/python tests/e2e/s3_calls.py
	deploy/lint.sh
	BIN=$(BIN) tests/e2e/prometheus.sh
	BIN=$(BIN) tests/e2e/seaweedfs.sh
	BIN=$(BIN) tests/e2e/replicas.sh
	BIN=$(BIN) UPLOADS=600 loadtest/chaos.sh

# AWS_LC_SYS_NO_JITTER_ENTROPY: collecting this entropy would take milliseconds of every cold start, and the kernel's is
# sufficient.
# LAMBDA_TARGET: builds for another processor if a linker for it is installed (aarch64-unknown-linux-gnu for arm64).
LAMBDA := $(CARGO_TARGET_DIR)/lambda/image-store
LAMBDA_TARGET ?= $(shell rustc -vV | sed -n 's/^host: //p')
lambda: export AWS_LC_SYS_NO_JITTER_ENTROPY = 1
lambda: ## Build the Lambda function: target/lambda/image-store/bootstrap and its zip
	$(CARGO) build --locked --profile lambda --no-default-features --bin image-store --target $(LAMBDA_TARGET)
	mkdir -p $(LAMBDA)
	cp $(CARGO_TARGET_DIR)/$(LAMBDA_TARGET)/lambda/image-store $(LAMBDA)/bootstrap
	deploy/zip.py $(LAMBDA)/bootstrap $(LAMBDA).zip

lighthouse: $(BIN) ## Audit the upload page and the docs with Lighthouse
	BIN=$(BIN) tests/e2e/lighthouse/run.sh

cfn-lint: ## Check the files in deploy/
	deploy/lint.sh

coldstart: lambda ## Measure the cold start of the function, compared with the Python service
	$(CARGO) build --release --locked -p loadtest-tools
	loadtest/coldstart/run.sh

bench: ## Run the Criterion benchmarks: cutting forms into parts, and whole uploads in process
	$(CARGO) bench --locked -p image-store-benches

bench-peers: ## Compare the service with proxies and other upload services before the same null S3; RUNS=5
	PROFILE=dist loadtest/peers.sh

bench-hop: ## Compare the service with nginx as a proxy only; RUNS=5; CHECK=1 fails if targets are missed
	PROFILE=dist PEERS="none nginx image-store" SIZES="64KiB 1MiB 1GiB" PLANS=0 loadtest/peers.sh

loadtest: ## Run the k6 scripts and the tests with many clients, and check their invariants
	loadtest/run.sh
	loadtest/crowd.sh

loadtest-smoke: ## Use every upload method for ten seconds
	loadtest/run.sh smoke

chaos: $(BIN) ## Upload while the store fails and processes are killed, and account for every upload; UPLOADS=10000, SEED=…
	BIN=$(BIN) loadtest/chaos.sh

.PHONY: $(BIN)
$(BIN):
	$(CARGO) build --release --locked --features "$(FEATURES)"
