#!/usr/bin/env bash
# Checks the template with cfn-lint, in a Python environment of its own below the target folder.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${CARGO_TARGET_DIR:-target}/venv/cfn-lint
if [ ! -x "$venv/bin/cfn-lint" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'cfn-lint==1.58.0'
fi
"$venv/bin/cfn-lint" deploy/template.yaml
echo "deploy/template.yaml: clean"
