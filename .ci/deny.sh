#!/usr/bin/env bash
# Checks the dependencies by deny.toml, with a cargo-deny of its own below the target folder.
#
# Known vulnerabilities are looked up wherever their database can be had: over git from GitHub, or a copy of it that an
# earlier run fetched. Where it lies elsewhere, git's `url.<base>.insteadOf` leads there.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/cargo-deny-$version
if [ ! -x "$tools/bin/cargo-deny" ]; then
    # Two minutes as a debug build, and fast enough as one. In a folder of cargo's own that is removed again.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features \
        --root "$tools" "cargo-deny@$version"
fi
deny=("$tools/bin/cargo-deny" --locked)

"${deny[@]}" check licenses bans sources
if fetched=$(timeout 120 "${deny[@]}" fetch db 2>&1); then
    "${deny[@]}" check advisories
elif ls -d "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/ >/dev/null 2>&1; then
    echo "advisories: their database cannot be fetched; its copy of an earlier day is used"
    "${deny[@]}" --offline check advisories
else
    reason=$(grep -m1 ^fatal: <<<"$fetched" || tail -n1 <<<"$fetched")
    echo "advisories: NOT CHECKED, their database cannot be fetched (${reason:-no answer within 120 s})"
fi
