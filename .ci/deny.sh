#!/usr/bin/env bash
# Checks the dependencies against deny.toml, with its own cargo-deny below the target folder.
#
# The advisory database is fetched with git from GitHub. If that fails, the copy of an earlier run is used. To fetch it
# from another address, set git's `url.<base>.insteadOf`.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.20.2
tools=$(realpath -m "${CARGO_TARGET_DIR:-target}")/tools/cargo-deny-$version
if [ ! -x "$tools/bin/cargo-deny" ]; then
    # The debug build takes two minutes and is fast enough. Cargo uses a temporary folder for it and removes it.
    env -u CARGO_TARGET_DIR CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --no-default-features \
        --root "$tools" "cargo-deny@$version"
fi
deny=("$tools/bin/cargo-deny" --locked)

"${deny[@]}" check licenses bans sources
if fetched=$(timeout 120 "${deny[@]}" fetch db 2>&1); then
    "${deny[@]}" check advisories
elif ls -d "${CARGO_HOME:-$HOME/.cargo}"/advisory-dbs/*/ >/dev/null 2>&1; then
    echo "advisories: the database cannot be fetched; an earlier copy is used"
    "${deny[@]}" --offline check advisories
else
    reason=$(grep -m1 ^fatal: <<<"$fetched" || tail -n1 <<<"$fetched")
    echo "advisories: NOT CHECKED, the database cannot be fetched (${reason:-no answer within 120 s})"
fi
