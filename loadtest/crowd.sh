#!/usr/bin/env bash
# Memory with many concurrent clients, at MEMORY_BUDGET=128MiB. In every scenario the service's peak resident memory
# must stay within the budget plus MARGIN_MIB (64), and no unfinished upload may remain.
#
#   slow      CLIENTS (500) each send 12 MiB at RATE (100000) bytes a second. A fast client's 100 MiB take at most twice as
#             long as on an idle server, in every window of 10 s. All uploads succeed.
#   refused   The same clients with SPILL_BUDGET=0. Uploads beyond the budget are rejected with 503 within a second.
#   fast      FAST_CLIENTS (200) each send 20 MiB, all at once and as fast as they can. All uploads succeed.
#
# Arguments select scenarios; the default is all of them. NO_BUILD=1 uses the existing binaries.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
clients=${CLIENTS:-500}
size=${SIZE:-12MiB}
rate=${RATE:-100000}
fast_clients=${FAST_CLIENTS:-200}
budget_mib=128
limit_mib=$((budget_mib + ${MARGIN_MIB:-64}))

# crowd <name> <SPILL_BUDGET> <arguments of the load generator…>: runs a scenario and checks its invariants.
crowd() {
    local name=$1 spill=$2 report peak problem=
    shift 2
    launch_null_s3
    launch_service MEMORY_BUDGET=${budget_mib}MiB SPILL_BUDGET="$spill" SPILL_DIR="${SPILL_DIR:-$work}"
    report=$("$tools/crowd" --address "${service_url#http://}" "$@") || problem="uploads did not end as expected"
    peak=$(peak_of "$service_pid")
    echo "$name: peak resident memory $peak MiB (limit $limit_mib MiB); $report"
    [ "$peak" -le "$limit_mib" ] || problem="${problem:+$problem; }the memory limit was exceeded"
    until_true 10 nothing_open || problem="${problem:+$problem; }$(state open_uploads) unfinished uploads remain"
    [ "$(sed -nE 's/.*"stored":([0-9]+).*/\1/p' <<<"$report")" -le "$(state objects)" ] || problem="${problem:+$problem; }objects are missing"
    stop "$service_pid"
    stop "$null_pid"
    [ -z "$problem" ] || fail "$name: $problem"
}

slow() {
    crowd slow 4GiB --clients "$clients" --size "$size" --rate "$rate" --fast-size 100MiB --expect success
}

refused() {
    crowd refused 0 --clients "$clients" --size "$size" --rate "$rate" --expect refusals
}

fast() {
    crowd fast 4GiB --clients "$fast_clients" --size 20MiB --rate 0 --expect success
}

# Each client needs a connection in the generator and one in the service, and each part in flight may need another one.
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"
[ -n "${NO_BUILD:-}" ] || build
[ "$#" -gt 0 ] || set -- slow refused fast
for name in "$@"; do
    case $name in
        slow | refused | fast) "$name" ;;
        *) fail "unknown scenario '$name'; the scenarios are slow, refused and fast" ;;
    esac
done
