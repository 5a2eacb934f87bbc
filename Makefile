# Every command of the project. `make test` needs a Rust toolchain and nothing else.

CARGO ?= cargo
export CARGO_TARGET_DIR ?= $(CURDIR)/target
BIN := $(CARGO_TARGET_DIR)/release/image-store

.PHONY: help run test lint e2e

help: ## Say what there is
	@grep -E '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z0-9-]+):.*## (.*)/  make \1\t\2/' | expand -t 18

run: ## Build and start the service, with the embedded S3 in data/
	$(CARGO) run --release --locked --bin image-store

test: ## Everything cargo alone can prove
	$(CARGO) test --locked

lint: ## Formatting, clippy and rustdoc, warnings denied
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked --no-default-features --lib --bins -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

e2e: $(BIN) ## What needs more than cargo; installs what it needs
	loadtest/memory.sh
	BIN=$(BIN) tests/e2e/run.sh

.PHONY: $(BIN)
$(BIN):
	$(CARGO) build --release --locked
