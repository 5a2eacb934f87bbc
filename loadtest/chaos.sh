#!/usr/bin/env bash
# UPLOADS (10,000) through the binary in BIN before SeaweedFS and a proxy that fails 10 % of the calls, while its processes
# are stopped and killed; then everything is accounted for (chaos/). SEED repeats what the clients do.
# Installs SeaweedFS below the target folder where it is missing; nothing it starts outlives it.
set -euo pipefail
bin=${BIN:+$(realpath "$BIN")}
cd "$(dirname "$0")/.."
. loadtest/lib.sh
. loadtest/seaweedfs.sh
export BIN=${bin:-$binary}
[ -x "$BIN" ] || fail "there is no $BIN: build it first"

install_seaweedfs
launch_seaweedfs "$weed" chaos
STORE=$weed_url FILER=$weed_filer BUCKET=chaos WORK=$work python3 loadtest/chaos/main.py
