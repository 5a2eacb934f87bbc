# Installs nginx. Source this file.
# shellcheck shell=bash

# install_nginx: installs nginx (Debian) if it is missing, and sets $nginx to its path.
install_nginx() {
    local sudo
    nginx=$(command -v nginx || echo /usr/sbin/nginx)
    [ -x "$nginx" ] && return
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nginx >/dev/null
}
