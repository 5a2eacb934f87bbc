# Provides programs from Debian packages. Source this file.
# shellcheck shell=bash

# debian_program <package> <path in the package>: prints the path of the program. If it is not installed, it is extracted
# from the package to the target folder, because installing the package would start its service.
debian_program() {
    local folder deb
    command -v "${2##*/}" && return
    folder=$(realpath -m "${CARGO_TARGET_DIR:-target}")/debian
    if [ ! -x "$folder/$2" ]; then
        mkdir -p "$folder"
        deb=$(mktemp -d)
        if ! download_deb "$1" "$deb"; then
            $([ "$(id -u)" -eq 0 ] || echo sudo) apt-get update -qq >&2
            download_deb "$1" "$deb"
        fi
        dpkg-deb --fsys-tarfile "$deb"/*.deb | tar -x -C "$folder" "./$2"
        rm -r "$deb"
    fi
    echo "$folder/$2"
}

# As the current user: apt's own user may not be allowed to write to the folder.
download_deb() {
    (cd "$2" && apt-get download -qq -o APT::Sandbox::User="$(id -un)" "$1" >&2)
}

# install_chromium: installs Chromium (Debian) if it is missing.
install_chromium() {
    local sudo
    [ -x /usr/bin/chromium ] && return
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium
}

# install_nginx: installs nginx (Debian) if it is missing, and sets $nginx to its path.
install_nginx() {
    local sudo
    nginx=$(command -v nginx || echo /usr/sbin/nginx)
    [ -x "$nginx" ] && return
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nginx >/dev/null
}
