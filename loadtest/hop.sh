#!/usr/bin/env bash
# Measures the cost of this service as a hop between client and S3, compared with nginx as a proxy, which does not
# inspect the data.
#
# curl sends the same file of SIZE_MIB (1024) RUNS (7) times in each of these ways, in turns:
#   direct    as a PUT directly to the null S3
#   nginx     as a PUT through nginx, tuned for it
#   form      as a form through nginx
#   service   as a form through this service, with checksums enabled
# Then wrk sends images of 64 KiB over 64 connections for SECONDS_EACH (5) s, SMALL_RUNS (3) times each. Prints medians.
# With CHECK=1 it fails if the ratios to nginx exceed CPU_RATIO (2.0) or WALL_RATIO (1.1).
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
runs=${RUNS:-7}
size_mib=${SIZE_MIB:-1024}
small_runs=${SMALL_RUNS:-3}
seconds_each=${SECONDS_EACH:-5}

need() {
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || apt-get install -y --no-install-recommends "$2" >&2
}

launch_nginx() {
    local try
    for try in $(seq 10); do
        nginx_port=$((20000 + RANDOM % 12000))
        mkdir -p "$work/nginx"
        chmod 711 "$work" "$work/nginx"
        cat >"$work/nginx/nginx.conf" <<CONF
daemon off;
worker_processes 1;
pid $work/nginx/pid;
error_log $work/nginx.err;
events { worker_connections 1024; }
http {
    access_log off;
    sendfile on;
    tcp_nodelay on;
    client_body_temp_path $work/nginx/body;
    proxy_temp_path $work/nginx/proxy;
    fastcgi_temp_path $work/nginx/fastcgi;
    uwsgi_temp_path $work/nginx/uwsgi;
    scgi_temp_path $work/nginx/scgi;
    upstream s3 {
        server ${null_url#http://};
        keepalive 64;
    }
    server {
        listen 127.0.0.1:$nginx_port backlog=1024;
        client_max_body_size 0;
        client_body_buffer_size 1m;
        location / {
            proxy_pass http://s3;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_request_buffering off;
        }
    }
}
CONF
        PATH=$PATH:/usr/sbin nginx -p "$work/nginx" -c "$work/nginx/nginx.conf" 2>>"$work/nginx.err" &
        nginx_pid=$!
        started+=("$nginx_pid")
        until_true 5 nginx_is_ready_or_ended
        if kill -0 "$nginx_pid" 2>/dev/null; then
            nginx_url=http://127.0.0.1:$nginx_port
            return
        fi
    done
    fail "nginx did not start"
}

nginx_is_ready_or_ended() {
    ! kill -0 "$nginx_pid" 2>/dev/null || curl -sS --fail "http://127.0.0.1:$nginx_port/_state" >/dev/null 2>&1
}

# upload <way> <process of the hop, or empty> <curl's arguments…>: records wall and CPU seconds.
upload() {
    local way=$1 hop=$2 before=0 after=0 wall
    shift 2
    [ -z "$hop" ] || before=$(cpu_of "$hop")
    wall=$(curl -sS --fail -o "$work/answer" -w '%{time_total}' "$@") || fail "$way: curl: $(cat "$work/answer")"
    [ -z "$hop" ] || after=$(cpu_of "$hop")
    echo "$wall" >>"$work/$way.wall"
    awk -v a="$before" -v b="$after" 'BEGIN { print b - a }' >>"$work/$way.cpu"
}

# small <way> <process> <url> <script>: records requests a second and CPU microseconds for each request.
small() {
    local way=$1 hop=$2 before after
    before=$(cpu_of "$hop")
    wrk -t1 -c64 -d"${seconds_each}s" -s "$4" "$3" >"$work/wrk" || fail "$way: wrk"
    after=$(cpu_of "$hop")
    ! grep -E 'Non-2xx|Socket errors' "$work/wrk" || fail "$way: requests failed"
    awk '/^Requests\/sec/ { print $2 }' "$work/wrk" >>"$work/$way.rate"
    awk -v a="$before" -v b="$after" '/requests in/ { printf "%.1f\n", (b - a) * 1e6 / $1 }' "$work/wrk" >>"$work/$way.each"
}

of() {
    median <"$work/$1.$2"
}

row() {
    printf '%-28s %8s s   %8s s   %8s MiB\n' "$1" "$(of "$2" wall)" "$(of "$2" cpu)" "$3"
}

need nginx nginx-core
need wrk wrk
[ -n "${NO_BUILD:-}" ] || build
launch_null_s3
launch_nginx
launch_service
image "$((size_mib << 20))" >"$work/large.png"
image 65536 >"$work/small.png"

for _ in $(seq "$runs"); do
    upload direct "" -T "$work/large.png" "$null_url/null/direct"
    upload nginx "$nginx_pid" -T "$work/large.png" "$nginx_url/null/nginx"
    upload form "$nginx_pid" -X PUT -F "file=@$work/large.png" "$nginx_url/null/form"
    upload service "$service_pid" -F "file=@$work/large.png" "$service_url/upload-image"
    curl -sS --fail -X POST "$null_url/_reset" >"$work/answer"
done
nginx_peak=$(peak_of "$nginx_pid")
service_peak=$(peak_of "$service_pid")

# Scripts for wrk, which builds each request once.
cat >"$work/put.lua" <<LUA
wrk.method = "PUT"
wrk.body = io.open("$work/small.png", "rb"):read("*a")
LUA
cat >"$work/form.lua" <<LUA
local image = io.open("$work/small.png", "rb"):read("*a")
wrk.method = "POST"
wrk.headers["Content-Type"] = "multipart/form-data; boundary=a-boundary"
wrk.body = '--a-boundary\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n' ..
    'Content-Type: image/png\r\n\r\n' .. image .. '\r\n--a-boundary--\r\n'
LUA
for _ in $(seq "$small_runs"); do
    small small-nginx "$nginx_pid" "$nginx_url/null/small" "$work/put.lua"
    small small-service "$service_pid" "$service_url/upload-image" "$work/form.lua"
    curl -sS --fail -X POST "$null_url/_reset" >"$work/answer"
done

cpu_ratio=$(ratio "$(of service cpu)" "$(of nginx cpu)")
wall_ratio=$(ratio "$(of service wall)" "$(of nginx wall)")
printf '\n%s MiB, medians of %s runs in turns\n' "$size_mib" "$runs"
printf '%-28s %10s   %10s   %12s\n' "" wall "CPU of hop" "peak RSS"
row "(a) PUT, no hop" direct -
row "(b) PUT through nginx" nginx "$nginx_peak"
row "(b') form through nginx" form "$nginx_peak"
row "(c) form through the service" service "$service_peak"
echo "(c)/(b): wall $wall_ratio, CPU $cpu_ratio;  (c)/(b'): wall $(ratio "$(of service wall)" "$(of form wall)"), CPU $(ratio "$(of service cpu)" "$(of form cpu)")"
printf '\n64 KiB, 64 connections, medians of %s runs of %s s\n' "$small_runs" "$seconds_each"
printf '%-28s %8s/s   %8s us of CPU each\n' "PUT through nginx" "$(of small-nginx rate)" "$(of small-nginx each)"
printf '%-28s %8s/s   %8s us of CPU each\n' "form through the service" "$(of small-service rate)" "$(of small-service each)"
echo "service/nginx: CPU $(ratio "$(of small-service each)" "$(of small-nginx each)")"

if [ -n "${CHECK:-}" ]; then
    awk -v cpu="$cpu_ratio" -v most="${CPU_RATIO:-2.0}" 'BEGIN { exit !(cpu <= most) }' || fail "the CPU ratio $cpu_ratio exceeds the limit"
    awk -v wall="$wall_ratio" -v most="${WALL_RATIO:-1.1}" 'BEGIN { exit !(wall <= most) }' || fail "the wall time ratio $wall_ratio exceeds the limit"
fi
