#!/usr/bin/env bash
# Runs prometheus.py with Prometheus from its Debian package, in the Python environment of `make e2e`.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/e2e/debian.sh
PROMETHEUS=$(debian_program prometheus usr/bin/prometheus)
export PROMETHEUS
"${CARGO_TARGET_DIR:-target}/e2e/venv/bin/python" tests/e2e/prometheus.py
