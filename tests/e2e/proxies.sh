#!/usr/bin/env bash
# Tests the service with its embedded S3 behind real proxies that terminate TLS, speak HTTP/2 and remove a path prefix:
# nginx with deploy/nginx.conf, and Caddy with deploy/Caddyfile. Each is tested without settings of the service, then with
# PUBLIC_URL, then with TRUSTED_PROXIES.
#
# Uses nginx and Caddy from their Debian packages if they are missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/e2e/debian.sh
bin=$(realpath "${BIN:-target/release/image-store}")
work=$(mktemp -d)
pids=()
finish() {
    local status=$?
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    [ $status -eq 0 ] || tail -n 20 "$work"/*.log >&2
    rm -r "$work"
}
trap finish EXIT

fail() {
    echo "proxies.sh: $*" >&2
    exit 1
}

caddy=$(debian_program caddy usr/bin/caddy)
install_nginx
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
head -c 12M /dev/urandom | cat tests/fixtures/plain.png - >"$work/put.png"
head -c 12M /dev/urandom | cat "$work/put.png" - >"$work/parts.png"

# Prints a free port. The proxy gets its port before the service starts, because PUBLIC_URL contains it.
port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

until_answered() {
    for _ in $(seq 100); do
        curl --cacert "$work/cert.pem" -sf -o /dev/null "$1" && return
        sleep 0.1
    done
    fail "$1 does not answer"
}

# start_nginx FOLDER: starts nginx with deploy/nginx.conf, in which only addresses and paths are replaced.
start_nginx() {
    sed -e "s|listen 443 |listen 127.0.0.1:$proxy_port |" -e "s|127.0.0.1:8080|127.0.0.1:$service_port|" \
        -e "s|/etc/nginx/tls/images.example.com.pem|$work/cert.pem|" \
        -e "s|/etc/nginx/tls/images.example.com.key|$work/key.pem|" \
        -e "s|/var/log/nginx/image-store.log|$1/access|" deploy/nginx.conf >"$1/server.conf"
    cat >"$1/nginx.conf" <<CONF
daemon off;
pid $1/pid;
error_log $1.log;
events {}
http {
    client_body_temp_path $1/body;
    proxy_temp_path $1/proxy;
    fastcgi_temp_path $1/fastcgi;
    uwsgi_temp_path $1/uwsgi;
    scgi_temp_path $1/scgi;
    include $1/server.conf;
}
CONF
    # The workers of nginx run as another user.
    chmod 711 "$work" "$1"
    "$nginx" -e "$1.log" -c "$1/nginx.conf" &
}

# start_caddy FOLDER: starts Caddy with deploy/Caddyfile, in which only the addresses and the certificate are replaced.
start_caddy() {
    {
        printf '{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n'
        sed -e "s|^images.example.com {|https://localhost:$proxy_port {\n\tbind 127.0.0.1\n\ttls $work/cert.pem $work/key.pem|" \
            -e "s|127.0.0.1:8080|127.0.0.1:$service_port|" deploy/Caddyfile
    } >"$1/Caddyfile"
    HOME=$1 XDG_DATA_HOME=$1 XDG_CONFIG_HOME=$1 "$caddy" run --adapter caddyfile --config "$1/Caddyfile" 2>"$1.log" &
}

# start PROXY [SETTING]: starts the service, with a setting in its environment, and the proxy in front of it.
start() {
    local folder=$work/$1-${2:-nothing}
    service_port=$(port) proxy_port=$(port)
    base=https://localhost:$proxy_port/up
    mkdir "$folder"
    env ${2:+"${2/BASE/$base}"} DATA_DIR="$folder/data" HOST=127.0.0.1 PORT="$service_port" DIRECT_PUT_MAX=16MiB \
        "$bin" >"$folder-service.log" 2>&1 &
    pids+=($!)
    "start_$1" "$folder"
    pids+=($!)
    until_answered "$base/healthz"
}

get() {
    curl --cacert "$work/cert.pem" -sSf "$@"
}

field() {
    python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"
}

# upload FLAG FILE: uploads with the client. Its link and the image's address must return the file.
upload() {
    local line url
    line=$(SSL_CERT_FILE=$work/cert.pem "$bin" upload --url "$base" "$1" "$2" 2>"$work/upload.log")
    url=$(field url <<<"$line")
    [[ $url == "$base/_store/"* ]] || fail "the link of $2 leads to $url"
    get "$url" | cmp - "$2"
    get -L "$base/images/$(field s3_key <<<"$line")" | cmp - "$2"
}

page() {
    local asset
    get "$base/" >"$work/page.html"
    for asset in $(grep -oE '(href|src)="[^"]+"' "$work/page.html" | cut -d'"' -f2); do
        get -o /dev/null "$base/$asset"
    done
}

# form SETTING: uploads with curl over HTTP/2. curl does not tell the service its address, so only a setting can make the links
# right.
form() {
    local key
    get --http2 -D "$work/head" -F "file=@$work/put.png" "$base/upload-image" >"$work/image"
    grep -q '^HTTP/2 200' "$work/head" || fail "not by HTTP/2: $(cat "$work/head")"
    key=$(field s3_key <"$work/image")
    get -L "$base/images/$key" | cmp - "$work/put.png"
    [ "$1" = nothing ] && return
    get "$(field url <"$work/image")" | cmp - "$work/put.png"
    grep -qi "^location: $base/images/$key"$'\r' "$work/head" || fail "the location is not below $base: $(cat "$work/head")"
}

# secrets FOLDER: nginx's log must contain neither queries nor grants.
secrets() {
    local grant=eyJhbGciOiJIUzI1NiJ9.e30.AAAA
    curl --cacert "$work/cert.pem" -s -o /dev/null "$base/g/$grant/limits"
    curl --cacert "$work/cert.pem" -s -o /dev/null "$base/uploads/complete?plan=$grant"
    grep -q ' /up/g/-/limits ' "$1/access" || fail "$(cat "$1/access")"
    if grep -E "$grant|X-Amz-|\?" "$1/access"; then fail "nginx logs secrets"; fi
}

for proxy in nginx caddy; do
    for setting in "" PUBLIC_URL=BASE TRUSTED_PROXIES=127.0.0.1; do
        start $proxy $setting
        page
        upload --stream "$work/put.png"
        upload --direct "$work/put.png"
        upload --direct "$work/parts.png"
        form "${setting:-nothing}"
        [ $proxy = caddy ] || secrets "$work/$proxy-${setting:-nothing}"
        get -o /dev/null -D - "$base/healthz" | grep -qi '^strict-transport-security: ' || fail "$proxy sends no HSTS"
        echo "$proxy, with TLS and a path prefix, ${setting:-no setting}: page, form, PUT, parts, images"
    done
done
