#!/usr/bin/env bash
# Cold starts: the time from exec to the response to the first upload, for this function and for the Python service that
# it replaces. Both use the same Runtime API (runtime_api.py) and the same S3, which responds at once (null-s3).
#
# RUNS (10) of each. Fails if the time exceeds 1/15 of Python's, or at 40 MiB of memory or a zip of 8 MiB. CHECK=0 only
# prints the results.
set -euo pipefail
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
function=${FUNCTION:-$target/lambda/image-store/bootstrap}
zip=$target/lambda/image-store.zip
store=${STORE:-$target/release/null-s3}
image=tests/fixtures/plain.jpg
venv=$target/venv/coldstart
work=$(mktemp -d "${TMPDIR:-/tmp}/image-store.XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

if [ ! -e "$venv/ready" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet awslambdaric fastapi mangum python-multipart boto3
    touch "$venv/ready"
fi

"$store" >"$work/out" 2>"$work/err" &
server=$!
endpoint=
for _ in $(seq 100); do
    endpoint=$(sed -nE 's/.*listens on (http.*)/\1/p' "$work/out")
    [ -n "$endpoint" ] && break
    kill -0 "$server" || { cat "$work/err"; exit 1; }
    sleep 0.1
done
AWS_ACCESS_KEY_ID=test
AWS_SECRET_ACCESS_KEY=test
S3_BUCKET=${S3_BUCKET:-images}
export AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY S3_BUCKET
export AWS_ENDPOINT_URL_S3=$endpoint AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1 S3_FORCE_PATH_STYLE=true

cold_start() { python3 loadtest/coldstart/runtime_api.py --runs "${RUNS:-10}" --image "$image" -- "$@"; }
# Copied, because Python stores the compiled module next to the source at the first import.
cp loadtest/coldstart/baseline.py "$work"
function_result=$(cold_start "$function")
python_result=$(PYTHONPATH=$work cold_start "$venv/bin/python" -m awslambdaric baseline.handler)

python3 - "$function_result" "$python_result" "$zip" "${CHECK:-1}" <<'END'
import json, os, sys

function, python = (json.loads(text) for text in sys.argv[1:3])
zip_mib = os.path.getsize(sys.argv[3]) / 2**20 if os.path.exists(sys.argv[3]) else float("nan")
for name, result in (("image-store", function), ("python", python)):
    times = f"{result['median_ms']:7.1f} ms (median; {result['min_ms']:.1f} to {result['max_ms']:.1f})"
    print(f"{name:12} {times}  {result['peak_mib']:5.1f} MiB")
ratio = python["median_ms"] / function["median_ms"]
print(f"1/{ratio:.1f} of Python's time; zip {zip_mib:.2f} MiB")
if sys.argv[4] != "0" and not (ratio >= 15 and function["peak_mib"] < 40 and zip_mib < 8):
    sys.exit("FAILED: the limits are 1/15 of Python's time, 40 MiB of memory and a zip of 8 MiB")
END
