#!/usr/bin/env bash
# Runs the commands and snippets of README.md and docs/ (documents.py), with SeaweedFS as the store of `my-bucket`.
set -euo pipefail
bin=${BIN:+$(realpath "$BIN")}
cd "$(dirname "$0")/../.."
. loadtest/lib.sh
. loadtest/seaweedfs.sh
export BIN=${bin:-$binary}
[ -x "$BIN" ] || fail "$BIN does not exist: build it first"

install_seaweedfs
launch_seaweedfs "$weed" my-bucket
export AWS_ENDPOINT_URL_S3=$weed_url S3_FORCE_PATH_STYLE=true PATH=$venv/bin:$PATH
"$venv/bin/python" tests/e2e/documents.py "$@"
