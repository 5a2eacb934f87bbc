#!/usr/bin/env bash
# Runs the contract suite against SeaweedFS, a real S3 server, and then the binary in BIN with it as the store
# (seaweedfs.py). Installs SeaweedFS below the target folder if it is missing. All started processes are stopped at the
# end.
set -euo pipefail
bin=${BIN:+$(realpath "$BIN")}
cd "$(dirname "$0")/../.."
. loadtest/lib.sh
. loadtest/seaweedfs.sh
export BIN=${bin:-$binary}
[ -x "$BIN" ] || fail "$BIN does not exist: build it first"

install_seaweedfs
launch_seaweedfs "$weed" images
echo "SeaweedFS is at $weed_url"

# Without an S3, these tests are skipped and pass, so the output must show that they ran.
export TEST_S3_ENDPOINT=$weed_url TEST_S3_BUCKET=images TEST_S3_CHECKSUM=crc64nvme TEST_S3_EXACT=1
CARGO_TARGET_DIR=$target ${CARGO:-cargo} test --locked --test it -- --nocapture contract::external_s3 2>&1 | tee "$work/contract"
grep -qE '^test result: ok\. [1-9][0-9]* passed; 0 failed; 0 ignored' "$work/contract" || fail "no test of the suite ran"
! grep -q 'skipped:' "$work/contract" || fail "the suite was skipped"

SEAWEEDFS_FILER=$weed_filer "$venv/bin/python" tests/e2e/seaweedfs.py
