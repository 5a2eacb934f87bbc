#!/usr/bin/env bash
# One upload of SIZE_MIB (1024) through the release binary at its default settings, embedded S3 and all; fails where the
# process's peak resident memory reaches LIMIT_MIB (64) or the answer is not the image that was sent.
# NO_BUILD=1 takes what is built.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
size=$((${SIZE_MIB:-1024} << 20))
limit_mib=${LIMIT_MIB:-64}

[ -n "${NO_BUILD:-}" ] || cargo build --release --locked -p image-store
image "$size" >"$work/large.png"
launch service env PORT=0 DATA_DIR="$work/data" "$binary"

started_at=$(date +%s.%N)
answer=$(curl -sS --fail-with-body -F "file=@$work/large.png" "$url/upload-image")
took=$(awk -v a="$started_at" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
peak=$(peak_of "$pid")

echo "uploaded $size bytes in $took s; peak resident memory $peak MiB (limit $limit_mib MiB)"
grep -q "\"size\":$size[,}]" <<<"$answer" || fail "stored something else: $answer"
[ "$peak" -lt "$limit_mib" ] || fail "too much memory"
[ -z "$(find "$work/data/uploads" "$work/data/tmp" -type f -print -quit)" ] || fail "files of an unfinished upload are left"
