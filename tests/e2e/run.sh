#!/usr/bin/env bash
# Tests the page, the docs, the examples and resumable uploads, mostly in headless Chromium, against the binary in BIN.
# Installs the browser (Debian) and the npm packages if they are missing. PYTHON (with PyJWT) and GO run the examples in these
# languages.
set -euo pipefail
cd "$(dirname "$0")"
. ./debian.sh
install_chromium
npm ci --no-audit --no-fund
# The examples use the same packages.
ln -sfn ../tests/e2e/node_modules ../../examples/node_modules
# tus-js-client keeps reading the streams of uploads that were interrupted, so the process would not end by itself.
node --test --test-reporter=spec --test-concurrency=1 --test-force-exit "$@" page.test.js grants.test.js docs.test.js examples.test.js \
    tus.test.js tus-browser.test.js
