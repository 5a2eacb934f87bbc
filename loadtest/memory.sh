#!/usr/bin/env bash
# One upload of SIZE_MIB (1024) through the release binary at its default settings, embedded S3 and all; fails where the
# process's peak resident memory reaches LIMIT_MIB (64) or the answer is not the image that was sent.
set -euo pipefail
cd "$(dirname "$0")/.."
size_mib=${SIZE_MIB:-1024}
limit_mib=${LIMIT_MIB:-64}
binary=${CARGO_TARGET_DIR:-target}/release/image-store
work=$(mktemp -d "${TMPDIR:-/tmp}/image-store.XXXXXX")
server=
finish() {
    [ -z "$server" ] || kill "$server" 2>/dev/null || true
    wait 2>/dev/null || true
    rm -rf "$work"
}
trap finish EXIT

# A small PNG with a long tail: the service reads an image's header, and stores every byte.
{ cat tests/fixtures/plain.png; head -c "$((size_mib << 20))" /dev/zero; } >"$work/large.png"
size=$(wc -c <"$work/large.png")

DATA_DIR=$work/data PORT=0 EMBEDDED_S3_PORT=0 "$binary" >"$work/out" 2>"$work/err" &
server=$!
url=
for _ in $(seq 100); do
    url=$(sed -nE 's/^image-store listens on (http[^ ,]*).*/\1/p' "$work/out")
    [ -n "$url" ] && break
    kill -0 "$server" || { cat "$work/err"; exit 1; }
    sleep 0.1
done

started=$(date +%s.%N)
answer=$(curl -sS --fail-with-body -F "file=@$work/large.png" "$url/upload-image")
took=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.2f", b - a }')
peak_kib=$(awk '/^VmHWM/ { print $2 }' "/proc/$server/status")
stored=$(sed -nE 's/.*"size":([0-9]+).*/\1/p' <<<"$answer")

echo "uploaded $size bytes in $took s; peak resident memory $((peak_kib >> 10)) MiB (limit $limit_mib MiB)"
[ "$stored" = "$size" ] || { echo "stored $stored bytes: $answer"; exit 1; }
[ "$((peak_kib >> 10))" -lt "$limit_mib" ] || { echo "too much memory"; exit 1; }
leftover=$(find "$work/data" -name '.upload*' | wc -l)
[ "$leftover" -eq 0 ] || { echo "$leftover files of an unfinished upload are left"; exit 1; }
