# Functions that the scripts in this folder share. Every process that they start ends with the script.
# shellcheck shell=bash
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
# PROFILE=dist measures what is deployed.
profile=${PROFILE:-release}
binary=$target/$profile/image-store
tools=$target/release
# Not in /tmp, which may be a tmpfs.
mkdir -p "$target"
work=$(mktemp -d "$target/image-store.XXXXXX")
# The processes that this script started.
started=()
# Clean-up functions that are called when the script ends.
at_exit=()

fail() {
    echo "FAILED: $*" >&2
    exit 1
}

finish() {
    local status=$? function
    [ "$status" -eq 0 ] || tail -n 20 "$work"/*.err >&2 2>/dev/null || true
    for function in ${at_exit[@]+"${at_exit[@]}"}; do
        "$function" || true
    done
    [ "${#started[@]}" -eq 0 ] || kill "${started[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# Two builds, so that the tools' dependencies cannot change the features with which the service is built. FEATURES adds
# features to the default ones.
build() {
    cargo build --profile "$profile" --locked -p image-store --features "${FEATURES:-}"
    cargo build --release --locked -p loadtest-tools
}

# until_true <seconds> <command…>: repeats the command until it succeeds. Fails if it does not succeed in time.
until_true() {
    local deadline=$((SECONDS + $1))
    shift
    until "$@"; do
        [ "$SECONDS" -lt "$deadline" ] || return 1
        sleep 0.05
    done
}

# launch <name> <command…>: starts a server and waits until it prints its address. Sets $pid and $url.
launch() {
    local name=$1
    shift
    # Removes the output of an earlier process of this name.
    : >"$work/$name.out"
    "$@" >"$work/$name.out" 2>"$work/$name.err" &
    pid=$!
    started+=("$pid")
    until_true 30 is_listening "$name" || fail "$name did not start listening"
    url=$(sed -nE 's/.*listens on (http[^ ,]*).*/\1/p' "$work/$name.out" | head -n 1)
}

# launch_at <name> <path> <command…>: starts a server that listens on $port, and waits until it responds at the path.
# Sets $port, $pid and $url.
launch_at() {
    local name=$1 path=$2
    shift 2
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    "$@" >"$work/$name.out" 2>"$work/$name.err" &
    pid=$!
    started+=("$pid")
    url=http://127.0.0.1:$port
    until_true 30 responds "$url$path" || fail "$name did not respond"
}

responds() {
    kill -0 "$pid" 2>/dev/null || fail "$name ended"
    curl -sS --fail -o /dev/null "$1" 2>/dev/null
}

is_listening() {
    kill -0 "$pid" 2>/dev/null || fail "$name ended"
    grep -q 'listens on http' "$work/$name.out"
}

# stop <process>: stops a process that was started here with SIGTERM and waits for it.
stop() {
    local other rest=()
    kill "$1" 2>/dev/null || true
    wait "$1" 2>/dev/null || true
    for other in "${started[@]}"; do
        [ "$other" = "$1" ] || rest+=("$other")
    done
    started=(${rest[@]+"${rest[@]}"})
}

# Sets $null_pid, $null_url, and $store, the environment of a program that uses this store.
launch_null_s3() {
    launch null-s3 "$tools/null-s3" "$@"
    null_pid=$pid null_url=$url
    store=(
        S3_BUCKET=null AWS_ENDPOINT_URL_S3="$null_url" S3_FORCE_PATH_STYLE=true
        AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_DEFAULT_REGION=us-east-1
    )
}

# launch_service [VARIABLE=value…]: starts the service with the null S3 as its store. Sets $service_pid and
# $service_url.
launch_service() {
    launch service env PORT=0 "${store[@]}" S3_CHECKSUM=crc64nvme MAX_CONNECTIONS=1024 "$@" "$binary"
    service_pid=$pid service_url=$url
}

# Installs the packages of coldstart/baseline.py, the service that this one replaces. Sets $python_service to the folder.
install_python_service() {
    python_service=$target/venv/python-service
    local requirements=loadtest/coldstart/requirements.txt
    cmp -s "$requirements" "$python_service/requirements.txt" && return
    python3 -m venv --clear "$python_service"
    "$python_service/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    cp "$requirements" "$python_service"
}

# need <program> <package>: installs a Debian package if the program is missing.
need() {
    local sudo
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] && return
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq >&2
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >&2
}

# state <name>: prints a number from the null S3's state.
state() {
    curl -sS --fail "$null_url/_state" | sed -nE "s/.*\"$1\":([0-9]+).*/\1/p"
}

nothing_open() {
    [ "$(state open_uploads)" -eq 0 ]
}

# cpu_of <process…>: prints the CPU seconds that the processes and their children have used.
cpu_of() {
    local pid files=()
    for pid in "$@" $(pgrep -P "$(IFS=,; echo "$*")" || true); do
        files+=("/proc/$pid/stat")
    done
    # Fields 14 and 15. The second field, the name, may contain spaces.
    sed 's/^.*) //' "${files[@]}" | awk -v hertz="$(getconf CLK_TCK)" '{ ticks += $12 + $13 } END { printf "%.2f\n", ticks / hertz }'
}

# peak_of <process…>: prints the sum of the peak resident memory of the processes and their children, in MiB.
peak_of() {
    local pid files=()
    for pid in "$@" $(pgrep -P "$(IFS=,; echo "$*")" || true); do
        files+=("/proc/$pid/status")
    done
    awk '/^VmHWM/ { kib += $2 } END { printf "%d\n", kib / 1024 }' "${files[@]}"
}

# image <bytes>: prints an image of this size: a small image followed by random bytes.
image() {
    { cat tests/fixtures/plain.png; head -c "$1" /dev/urandom; } | head -c "$1"
}

# Prints the median of the numbers on standard input.
median() {
    sort -n | awk '{ value[NR] = $1 } END { if (NR) print value[int((NR + 1) / 2)]; else print "nan" }'
}

ratio() {
    awk -v a="$1" -v b="$2" 'BEGIN { if (b > 0) printf "%.2f", a / b; else printf "nan" }'
}
