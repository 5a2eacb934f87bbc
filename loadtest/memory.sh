#!/usr/bin/env bash
# Uploads one image of SIZE_MIB (1024) to the release binary at its default settings, with the embedded store. Fails if
# the process's peak resident memory reaches LIMIT_MIB (64) or the size in the response differs. NO_BUILD=1 uses the
# existing binary.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
size=$((${SIZE_MIB:-1024} << 20))
limit_mib=${LIMIT_MIB:-64}

[ -n "${NO_BUILD:-}" ] || cargo build --profile "$profile" --locked -p image-store
image "$size" >"$work/large.png"
launch service env PORT=0 DATA_DIR="$work/data" "$binary"

started_at=$(date +%s.%N)
answer=$(curl -sS --fail-with-body -F "file=@$work/large.png" "$url/upload-image")
took=$(awk -v a="$started_at" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
peak=$(peak_of "$pid")

echo "uploaded $size bytes in $took s; peak resident memory $peak MiB (limit $limit_mib MiB)"
grep -q "\"size\":$size[,}]" <<<"$answer" || fail "the size in the response differs: $answer"
[ "$peak" -lt "$limit_mib" ] || fail "the memory limit was exceeded"
[ -z "$(find "$work/data/uploads" "$work/data/tmp" -type f -print -quit)" ] || fail "files of an unfinished upload remain"
