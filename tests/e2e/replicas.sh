#!/usr/bin/env bash
# Tests two processes of the binary in BIN behind nginx, which sends them requests in turns, with SeaweedFS as their
# store (replicas.py). Installs nginx (Debian), and SeaweedFS below the target folder, if they are missing.
set -euo pipefail
bin=${BIN:+$(realpath "$BIN")}
cd "$(dirname "$0")/../.."
. loadtest/lib.sh
. loadtest/seaweedfs.sh
. tests/e2e/debian.sh
export BIN=${bin:-$binary}
[ -x "$BIN" ] || fail "$BIN does not exist: build it first"

install_nginx
install_seaweedfs
launch_seaweedfs "$weed" images
export TEST_S3_ENDPOINT=$weed_url TEST_S3_BUCKET=images SEAWEEDFS_FILER=$weed_filer NGINX_PROGRAM=$nginx WORK=$work
"$venv/bin/python" tests/e2e/replicas.py
