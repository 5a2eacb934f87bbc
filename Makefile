# Every command of the project. `make test` needs a Rust toolchain and nothing else.

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release/image-store

.PHONY: help run test lint e2e bench bench-hop loadtest loadtest-smoke

help: ## Say what there is
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Build and start the service, with the embedded S3 in data/
	$(CARGO) run --release --locked --bin image-store

test: ## Everything cargo alone can prove
	$(CARGO) test --locked

lint: ## Formatting, clippy and rustdoc, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

e2e: $(BIN) loadtest-smoke ## What needs more than cargo; installs what it needs
	loadtest/memory.sh

bench: ## Criterion: form bytes to parts; whole uploads in process
	$(CARGO) bench --locked --bench parts --bench upload

bench-hop: ## The service as a hop beside nginx; RUNS=7, CHECK=1 holds it to its targets
	loadtest/hop.sh

loadtest: ## k6 scripts and crowds of clients, with their invariants
	loadtest/run.sh
	loadtest/crowd.sh

loadtest-smoke: ## Ten seconds through every door
	loadtest/run.sh smoke

.PHONY: $(BIN)
$(BIN):
	$(CARGO) build --release --locked
