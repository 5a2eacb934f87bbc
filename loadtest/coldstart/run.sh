#!/usr/bin/env bash
# Cold starts: the time from exec to the response to the first upload, for this function and for the Python service that
# it replaces. Both use the same Runtime API (runtime_api.py) and the same S3, which responds at once (null-s3).
#
# RUNS (10) of each. Fails if the time is not below 1/30 of Python's, or at 40 MiB of memory or a zip of 8 MiB. CHECK=0
# only prints the results.
set -euo pipefail
cd "$(dirname "$0")/../.."
. loadtest/lib.sh
function=${FUNCTION:-$target/lambda/image-store/bootstrap}
zip=$target/lambda/image-store.zip

cold_start() {
    env "${store[@]}" python3 loadtest/coldstart/runtime_api.py \
        --runs "${RUNS:-10}" --image tests/fixtures/plain.jpg -- "$@"
}

install_python_service
launch_null_s3
# Copied, because Python stores the compiled module next to the source at the first import.
cp loadtest/coldstart/baseline.py "$work"
function_result=$(cold_start "$function")
python_result=$(PYTHONPATH=$work cold_start "$python_service/bin/python" -m awslambdaric baseline.handler)

python3 - "$function_result" "$python_result" "$zip" "${CHECK:-1}" <<'END'
import json, os, sys

function, python = (json.loads(text) for text in sys.argv[1:3])
zip_mib = os.path.getsize(sys.argv[3]) / 2**20 if os.path.exists(sys.argv[3]) else float("nan")
for name, result in (("image-store", function), ("python", python)):
    times = f"{result['median_ms']:7.1f} ms (median; {result['min_ms']:.1f} to {result['max_ms']:.1f})"
    print(f"{name:12} {times}  {result['peak_mib']:5.1f} MiB")
ratio = python["median_ms"] / function["median_ms"]
print(f"1/{ratio:.1f} of Python's time; zip {zip_mib:.2f} MiB")
if sys.argv[4] != "0" and not (ratio > 30 and function["peak_mib"] < 40 and zip_mib < 8):
    sys.exit("FAILED: the limits are 1/30 of Python's time, 40 MiB of memory and a zip of 8 MiB")
END
