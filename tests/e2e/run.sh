#!/usr/bin/env bash
# Tests the page, the docs and resumable uploads in headless Chromium and Node.js, against the binary in BIN. Installs the
# browser (Debian) and the driver if they are missing.
set -euo pipefail
cd "$(dirname "$0")"
if [ ! -x /usr/bin/chromium ]; then
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
fi
npm ci --no-audit --no-fund
node --test --test-reporter=spec --test-concurrency=1 "$@" page.test.js grants.test.js docs.test.js tus.test.js \
    tus-browser.test.js
