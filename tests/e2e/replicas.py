"""Tests two processes of the service behind nginx, which sends them requests in turns, with SeaweedFS as their store.

The processes share nothing but the store and the settings. First every kind of upload runs with the requests of one upload
distributed over both. Then a process is killed in the middle of an upload, the upload continues with the other one, and
the killed one is started again.
"""

import base64
import os
import re
import signal
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import seaweedfs
from seaweedfs import MIB, Client, cut, names, png, put, unfinished
from service import BINARY

KEY = "a-key-that-both-replicas-have"
SETTINGS = seaweedfs.STORE | {"API_KEYS": KEY, "HOST": "127.0.0.1"}
WORK = Path(os.environ["WORK"])
NGINX_CONF = """
daemon off;
pid {work}/nginx.pid;
error_log {work}/nginx.err;
events {{}}
http {{
    access_log off;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    upstream replicas {{
        # One worker process and no failure count: requests go to the two in turns, also after one of them has failed.
        server 127.0.0.1:{first} max_fails=0;
        server 127.0.0.1:{second} max_fails=0;
    }}
    server {{
        listen 127.0.0.1:{port};
        client_max_body_size 0;
        location / {{
            proxy_pass http://replicas;
            proxy_http_version 1.1;
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            add_header X-Replica $upstream_addr always;
        }}
    }}
}}
"""


def until(what: str, found: Callable[[], Any]) -> Any:
    """Polls until `found` returns something true, and returns it."""
    deadline = time.monotonic() + 20
    while not (result := found()):
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.02)
    return result


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class Replica:
    """A process of the service, which can be killed and started again at the same address."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.start()

    def start(self) -> None:
        log = open(WORK / f"replica-{self.port}.err", "a")
        self.process = subprocess.Popen(
            [BINARY], env={**os.environ, **SETTINGS, "PORT": str(self.port)}, stdout=subprocess.PIPE, stderr=log, text=True
        )
        line = self.process.stdout.readline()
        assert f":{self.port}" in line, f"the service did not start: {line}"

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(timeout=20)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(timeout=60)
        assert status == 0, f"a replica exited with status {status}"

    def is_uploading(self) -> bool:
        metrics = httpx.get(f"http://127.0.0.1:{self.port}/metrics").text
        return int(re.search(r"^image_store_uploads_open (\d+)", metrics, re.M).group(1)) > 0


class Cluster:
    """nginx and the two replicas."""

    def __enter__(self) -> "Cluster":
        first, second, port = free_ports(3)
        self.replicas = [Replica(first), Replica(second)]
        conf = WORK / "nginx.conf"
        conf.write_text(NGINX_CONF.format(work=WORK, first=first, second=second, port=port))
        self.nginx = subprocess.Popen([os.environ["NGINX_PROGRAM"], "-e", WORK / "nginx.err", "-c", conf])
        # nginx closes a connection without announcing it if it has forwarded an answer before the whole request arrived
        # (a 413). A client that reuses the connection at once would find it closed.
        self.client = Client(f"http://127.0.0.1:{port}", limits=httpx.Limits(max_keepalive_connections=0))
        self.client.http.headers["Authorization"] = f"Bearer {KEY}"
        until("nginx answers", self.is_ready)
        return self

    def __exit__(self, *_) -> None:
        self.nginx.terminate()
        self.nginx.wait(timeout=20)
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.stop()

    def is_ready(self) -> bool:
        try:
            return self.client.http.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def kill_the_busy_one(self) -> Replica:
        busy = until("a replica is uploading", lambda: [each for each in self.replicas if each.is_uploading()])
        assert len(busy) == 1
        busy[0].kill()
        return busy[0]


def check_turns(client: Client) -> None:
    """Two requests, one after the other, are answered by both replicas."""
    answered = {client.http.get("/limits").headers["X-Replica"] for _ in range(2)}
    assert len(answered) == 2, answered


def cut_off(cluster: Cluster, method: str, url: str, content: bytes, headers: dict[str, str]) -> Replica:
    """Sends a request, and kills the replica that receives it when it has received part of the body. Returns the replica."""
    killed = threading.Event()

    def body() -> Iterator[bytes]:
        yield content[: len(content) // 2]
        killed.wait(30)
        yield content[len(content) // 2 :]

    def send() -> int | None:
        try:
            return cluster.client.http.request(method, url, content=body(), headers=headers).status_code
        except httpx.TransportError:
            return None

    with ThreadPoolExecutor(1) as pool:
        status = pool.submit(send)
        try:
            replica = cluster.kill_the_busy_one()
        finally:
            killed.set()
        assert status.result() in (None, 502), status.result()
    return replica


def killed_during_a_stream(cluster: Cluster, headers: dict[str, str]) -> None:
    """`headers` fix the image's key. The image is stored once, however often it is sent, and by whichever replica."""
    client, content, before = cluster.client, png(12 * MIB), names()
    headers = {"Content-Type": "image/png"} | headers
    replica = cut_off(cluster, "POST", "/images", content, headers)
    assert names() == before
    image = client.ask("POST", "/images", 200, content=content, headers=headers)
    client.check_image(image, content)
    replica.start()
    for _ in range(2):
        again = client.ask("POST", "/images", 200, content=content, headers=headers)
        assert again["s3_key"] == image["s3_key"]
    assert names() == before | {image["s3_key"]}
    client.delete(image)


def killed_during_a_plan(cluster: Cluster) -> None:
    """Direct uploads continue with the replica that is left, and are answered by the other one after its restart."""
    client, content = cluster.client, png(13 * MIB + 7)
    plan = client.plan(len(content), "multipart")
    parts = cut(plan, content)
    assert put(plan["parts"][0], parts[1]) == 200
    for replica in cluster.replicas:
        replica.kill()
        status = client.ask("GET", plan["status_url"], 200)
        missing = [part for part in status["parts"] if "url" in part]
        assert put(missing[0], parts[missing[0]["part_number"]]) == 200
        replica.start()
    cluster.replicas[0].kill()
    image = client.complete(plan)
    client.check_image(image, content)
    cluster.replicas[0].start()
    for _ in range(2):
        assert client.complete(plan)["s3_key"] == image["s3_key"]
    client.delete(image)


def killed_during_a_resumable(cluster: Cluster) -> None:
    """A tus upload continues with the replica that is left."""
    client, content = cluster.client, png(12 * MIB)
    name = base64.b64encode(b"photo.png").decode()
    headers = {"Tus-Resumable": "1.0.0"}
    creation = headers | {"Upload-Length": str(len(content)), "Upload-Metadata": f"filename {name}"}
    created = client.http.post("/files", headers=creation)
    assert created.status_code == 201, created.text
    address = created.headers["Location"]
    patch = headers | {"Content-Type": "application/offset+octet-stream", "Upload-Offset": "0"}
    replica = cut_off(cluster, "PATCH", address, content, patch)
    replica.start()

    def send_rest() -> bool:
        """Returns whether the upload is complete. What the killed replica had sent may still arrive: then it is 409."""
        offset = int(client.http.head(address, headers=headers).headers["Upload-Offset"])
        rest = client.http.patch(address, content=content[offset:], headers=patch | {"Upload-Offset": str(offset)})
        assert rest.status_code in (204, 409), rest.text
        return rest.status_code == 204

    until("the upload is complete", send_rest)
    images = [client.ask("GET", address, 200) for _ in range(2)]
    assert images[0]["s3_key"] == images[1]["s3_key"]
    client.check_image(images[0], content)
    client.delete(images[0])


def in_turns(client: Client) -> None:
    seaweedfs.through_the_service(client)
    seaweedfs.sent_again(client, client)
    seaweedfs.with_a_grant(client, client)
    seaweedfs.in_one_put(client)
    seaweedfs.in_parts(client, client)
    seaweedfs.aborted(client)
    seaweedfs.not_an_image(client)


def check() -> None:
    with Cluster() as cluster:
        client = cluster.client
        check_turns(client)
        in_turns(client)
        killed_during_a_stream(cluster, {"Idempotency-Key": f'"{uuid.uuid4()}"'})
        grant = client.ask("POST", "/grants", 201, json={"filename": "photo.png"})
        killed_during_a_stream(cluster, {"Authorization": f"Bearer {grant['grant']}"})
        killed_during_a_plan(cluster)
        killed_during_a_resumable(cluster)
        check_turns(client)
        seaweedfs.sweep(SETTINGS)
        assert (names(), names("incoming/"), unfinished()) == (set(), set(), set()), "something is left"


if __name__ == "__main__":
    started = time.monotonic()
    check()
    print(f"two replicas behind nginx: everything works, in {time.monotonic() - started:.1f} s")
