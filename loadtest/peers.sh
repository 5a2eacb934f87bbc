#!/usr/bin/env bash
# Compares this service with other ways of bringing an image to S3. All of them use the same null S3, which responds at
# once and discards the bytes, and take turns.
#
#   none          the form as a PUT directly to the null S3: what the client and the store can do
#   nginx         the same PUT through nginx, tuned for it
#   haproxy       the same PUT through HAProxy with splice
#   busboy        the form to a Node service: busboy and @aws-sdk/lib-storage
#   tus           the image to tus-node-server with its S3 store, as one creation with upload
#   python        the form to the service that this one replaces: FastAPI and boto3, in 2 worker processes
#   image-store   the form to this service, with checksums enabled
#
# Each image size of SIZES (64KiB 1MiB 10MiB 1GiB) is sent RUNS (5) times: 1 GiB alone, the others over CONNECTIONS (16)
# connections for SECONDS_EACH (5) s. Then plans of direct uploads are requested from Companion, the server of Uppy, and
# from this service; PLANS=0 omits them. PEERS selects the ways. Prints Markdown tables with the CPU time and the peak memory
# of the processes between the client and the store: medians, and the largest peak of all runs.
#
# With CHECK=1 it fails if this service, compared with nginx, misses one of the TARGETS in peers/table.py.
set -euo pipefail
cd "$(dirname "$0")/.."
. loadtest/lib.sh
peers=${PEERS:-none nginx haproxy busboy tus python image-store}
sizes=${SIZES:-64KiB 1MiB 10MiB 1GiB}
runs=${RUNS:-5}
seconds_each=${SECONDS_EACH:-5}
connections=${CONNECTIONS:-16}
# Images of at least this size are sent one after another.
alone=$((256 << 20))
# By peer: its process, the URL to which requests are sent, and the further arguments of the load generator.
declare -A process=() address=() arguments=()

# Each of the start_… functions starts a peer and sets $pid, $url, the URL for requests, and $request, the arguments of
# the load generator.

start_none() {
    pid='' url=$null_url/null/image request="--method PUT --form"
}

start_nginx() {
    start_proxy nginx nginx.conf nginx -p "$work/nginx" -c "$work/nginx/nginx.conf"
}

start_haproxy() {
    start_proxy haproxy haproxy.cfg haproxy -db -f "$work/haproxy/haproxy.cfg"
}

# start_proxy <package> <configuration> <command…>
start_proxy() {
    local package=$1 configuration=$2
    shift 2
    need "$1" "$package"
    # Its workers may run as another user.
    chmod 711 "$work"
    mkdir -p "$work/$package"
    launch_at "$package" /_state configure "$configuration" "$work/$package" "$@"
    url=$url/null/image request="--method PUT --form"
}

# configure <configuration> <folder> <command…>: replaces the port, the store and the folder in a configuration and
# becomes the command.
configure() {
    sed -e "s|PORT|$port|" -e "s|STORE|${null_url#http://}|" -e "s|FOLDER|$2|" "loadtest/peers/$1" >"$2/$1"
    shift 2
    PATH=$PATH:/usr/sbin exec "$@"
}

start_busboy() {
    launch_node busboy
    url=$url/upload-image request="--method POST --form"
}

start_tus() {
    launch_node tus
    url=$url/files
    request="--method POST --header Tus-Resumable:1.0.0 --header Content-Type:application/offset+octet-stream"
    request+=" --header Upload-Length:$(stat -c %s "$work/image.png")"
}

start_companion() {
    launch_node companion
    url="$url/s3/params?filename=a.png&type=image/png" request=""
}

start_python() {
    install_python_service
    # Copied, because Python stores the compiled module next to the source at the first import.
    mkdir -p "$work/python"
    cp loadtest/coldstart/baseline.py "$work/python"
    launch_at python /openapi.json run_python
    url=$url/upload-image request="--method POST --form"
}

run_python() {
    export "${store[@]}" PYTHONPATH="$work/python"
    exec "$python_service/bin/uvicorn" baseline:app --port "$port" --workers 2 --no-access-log
}

start_image-store() {
    launch_service
    url=$url/upload-image request="--method POST --form"
}

start_params() {
    launch_service
    url="$url/s3/params?filename=a.png&type=image/png" request=""
}

start_uploads() {
    launch_service
    echo '{"filename":"a.png","content_type":"image/png","size":65536}' >"$work/plan.json"
    url=$url/uploads request="--method POST --header Content-Type:application/json --body $work/plan.json"
}

# launch_node <program>
launch_node() {
    install_node_packages
    launch "$1" env "${store[@]}" NODE_ENV=production TMPDIR="$work" node "loadtest/peers/$1.js"
}

install_node_packages() {
    local lock=loadtest/peers/package-lock.json installed=loadtest/peers/node_modules/installed.json
    cmp -s "$lock" "$installed" && return
    npm ci --prefix loadtest/peers --no-audit --no-fund --silent >&2
    cp "$lock" "$installed"
}

# measure <group> <peer> <arguments of the load generator…>: prints a line for table.py.
measure() {
    local group=$1 peer=$2 pid=${process[$2]} before=0 after=0 peak=0 report
    shift 2
    [ -z "$pid" ] || before=$(cpu_of "$pid")
    # shellcheck disable=SC2086 # the arguments contain no spaces
    report=$("$tools/load" "${address[$peer]}" ${arguments[$peer]} "$@") || fail "$group: $peer"
    [ -z "$pid" ] || after=$(cpu_of "$pid") peak=$(peak_of "$pid")
    curl -sS --fail -X POST "$null_url/_reset" >"$work/answer"
    awk -v line="$group $peer" -v before="$before" -v after="$after" -v peak="$peak" -F '[:,}]' \
        '{ print line, $2, $4, after - before, peak }' <<<"$report"
}

# compare <group> <peers> <arguments of the load generator…>: starts the peers, and measures each of them RUNS times.
compare() {
    local group=$1 names=$2 peer
    shift 2
    for peer in $names; do
        "start_$peer"
        process[$peer]=$pid address[$peer]=$url arguments[$peer]=$request
        # Compilers of the peers' languages, connections to the store and caches are warm before it counts.
        measure "$group" "$peer" "$@" >"$work/warm"
    done
    for _ in $(seq "$runs"); do
        for peer in $names; do
            measure "$group" "$peer" "$@" | tee -a "$work/results" >&2
        done
    done
    for peer in $names; do
        [ -z "${process[$peer]}" ] || stop "${process[$peer]}"
    done
}

[ -n "${NO_BUILD:-}" ] || build
launch_null_s3
for size in $sizes; do
    bytes=$(numfmt --from=auto "${size%B}")
    image "$bytes" >"$work/image.png"
    load=(--body "$work/image.png")
    [ "$bytes" -ge "$alone" ] || load+=(--connections "$connections" --seconds "$seconds_each")
    compare "$size" "$peers" "${load[@]}"
done
[ "${PLANS:-1}" = 0 ] || compare plan "companion params uploads" --connections "$connections" --seconds "$seconds_each"
python3 loadtest/peers/table.py <"$work/results"
