#!/usr/bin/env bash
# Checks that the benchmarks build the service's dependencies with the same features as the service's own build. Otherwise
# the first `make bench` after a build would compile most of them again.
set -euo pipefail
cd "$(dirname "$0")/.."

# Prints the packages that the arguments select, each with its features.
packages() {
    cargo tree --locked --prefix none --format '{p} {f}' "$@" | sed 's/ (\*)$//' | sort -u
}

service=$(packages -p image-store -e normal,build)
benches=$(packages -p image-store-benches -e normal,build,dev)
differences=$(comm -23 <(echo "$service") <(echo "$benches"))
if [ -n "$differences" ]; then
    echo "the benchmarks build these packages with other features than the service:" >&2
    echo "$differences" >&2
    exit 1
fi
