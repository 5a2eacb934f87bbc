#!/usr/bin/env bash
# Audits the pages of the binary in BIN with Lighthouse. Installs the browser (Debian) and the npm packages if they are
# missing.
set -euo pipefail
cd "$(dirname "$0")"
. ../debian.sh
install_chromium
npm ci --no-audit --no-fund
# The start of the service is shared with the browser tests, which have packages of their own.
npm ci --no-audit --no-fund --prefix ..
node --test --test-reporter=spec lighthouse.test.js
