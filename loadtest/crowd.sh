#!/usr/bin/env bash
# Memory under a crowd, at MEMORY_BUDGET=128MiB: whatever the clients do, the service's peak resident memory stays under
# that plus MARGIN_MIB (64), and nothing is left behind.
#
#   slow      CLIENTS (500) each send 12 MiB at RATE (100000) bytes a second; a fast client's 100 MiB meanwhile take at
#             most twice as long as on an idle server; all succeed
#   refused   the same crowd with SPILL_BUDGET=0: the late ones get 503 within a second
#   fast      FAST_CLIENTS (200) send 20 MiB each, at once and as fast as they can; all succeed
#
# With names as arguments only those; NO_BUILD=1 takes what is built.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
clients=${CLIENTS:-500}
size=${SIZE:-12MiB}
rate=${RATE:-100000}
fast_clients=${FAST_CLIENTS:-200}
budget_mib=128
limit_mib=$((budget_mib + ${MARGIN_MIB:-64}))

# crowd <name> <SPILL_BUDGET> <the generator's arguments…>
crowd() {
    local name=$1 spill=$2 report peak problem=
    shift 2
    launch_null_s3
    launch_service MEMORY_BUDGET=${budget_mib}MiB SPILL_BUDGET="$spill" SPILL_DIR="${SPILL_DIR:-$work}"
    report=$("$tools/crowd" --address "${service_url#http://}" "$@") || problem="the crowd was not served as it must be"
    peak=$(peak_of "$service_pid")
    echo "$name: peak resident memory $peak MiB (limit $limit_mib MiB); $report"
    [ "$peak" -le "$limit_mib" ] || problem="${problem:+$problem; }too much memory"
    until_true 10 nothing_open || problem="${problem:+$problem; }$(state open_uploads) uploads are left open"
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

# Each client is a connection of the generator's and one of the service's, and a part of it may be one more.
ulimit -n 8192 2>/dev/null || ulimit -n "$(ulimit -Hn)"
[ -n "${NO_BUILD:-}" ] || build
[ "$#" -gt 0 ] || set -- slow refused fast
for name in "$@"; do
    case $name in
        slow | refused | fast) "$name" ;;
        *) fail "there is no '$name': slow, refused, fast" ;;
    esac
done
