#!/usr/bin/env bash
# Tests the service with its embedded S3 behind a real nginx that terminates TLS and removes a path prefix, first
# without further settings, then with PUBLIC_URL. Installs nginx (Debian) if it is missing.
set -euo pipefail
cd "$(dirname "$0")/../.."
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
    echo "nginx.sh: $*" >&2
    exit 1
}

nginx=$(command -v nginx || echo /usr/sbin/nginx)
if [ ! -x "$nginx" ]; then
    sudo=$([ "$(id -u)" -eq 0 ] || echo sudo)
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nginx >/dev/null
fi
openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost \
    -addext basicConstraints=critical,CA:FALSE -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
head -c 12M /dev/urandom | cat tests/fixtures/plain.png - >"$work/put.png"
head -c 12M /dev/urandom | cat "$work/put.png" - >"$work/parts.png"

# Prints a free port. nginx gets its port before the service starts, because PUBLIC_URL contains it.
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

start() {
    service_port=$(port) nginx_port=$(port)
    base=https://localhost:$nginx_port/up
    mkdir -p "$work/$1"
    # The workers of nginx run as another user. They store there what does not fit into their buffers.
    chmod 711 "$work" "$work/$1"
    cat >"$work/$1/nginx.conf" <<CONF
daemon off;
pid $work/$1/pid;
error_log $work/nginx.log;
events {}
http {
    access_log off;
    client_body_temp_path $work/$1/body;
    proxy_temp_path $work/$1/proxy;
    fastcgi_temp_path $work/$1/fastcgi;
    uwsgi_temp_path $work/$1/uwsgi;
    scgi_temp_path $work/$1/scgi;
    server {
        listen 127.0.0.1:$nginx_port ssl;
        ssl_certificate $work/cert.pem;
        ssl_certificate_key $work/key.pem;
        client_max_body_size 0;
        location /up/ {
            proxy_pass http://127.0.0.1:$service_port/;
            proxy_http_version 1.1;
            proxy_request_buffering off;
        }
    }
}
CONF
    [ "$1" = nothing ] || export PUBLIC_URL=$base
    DATA_DIR=$work/$1/data HOST=127.0.0.1 PORT=$service_port DIRECT_PUT_MAX=16MiB "$bin" >"$work/$1.log" 2>&1 &
    pids+=($!)
    "$nginx" -e "$work/nginx.log" -c "$work/$1/nginx.conf" &
    pids+=($!)
    until_answered "$base/healthz"
}

get() {
    curl --cacert "$work/cert.pem" -sSf "$@"
}

# upload FLAG FILE: uploads with the client. Its link and the image's address must return the file.
upload() {
    local line key url
    line=$(SSL_CERT_FILE=$work/cert.pem "$bin" upload --url "$base" "$1" "$2" 2>"$work/upload.log")
    url=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["url"])' "$line")
    key=$(python3 -c 'import json, sys; print(json.loads(sys.argv[1])["s3_key"])' "$line")
    [[ $url == "$base/_store/"* ]] || fail "the link of $2 leads to $url"
    get "$url" | cmp - "$2"
    get -L "$base/images/$key" | cmp - "$2"
}

page() {
    local asset
    get "$base/" >"$work/page.html"
    for asset in $(grep -oE '(href|src)="[^"]+"' "$work/page.html" | cut -d'"' -f2); do
        get -o /dev/null "$base/$asset"
    done
}

for configured in nothing public-url; do
    start $configured
    page
    upload --stream "$work/put.png"
    upload --direct "$work/put.png"
    upload --direct "$work/parts.png"
    key=$(get -F "file=@tests/fixtures/plain.png" "$base/upload-image" | python3 -c 'import json, sys; print(json.load(sys.stdin)["s3_key"])')
    get -L "$base/images/$key" | cmp - tests/fixtures/plain.png
    echo "nginx, with TLS and a path prefix, $configured configured: page, form, PUT, parts, images"
done
