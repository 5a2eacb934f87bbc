"""Runs what deploy/compose.yaml describes, without a container engine: both programs, with their commands and environments.

Only addresses differ. Then uploads in each way, and checks that the rules of deploy/aws/ work with this store.
"""

import contextlib
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import httpx
import yaml
from service import BINARY, ROOT, service

COMPOSE = yaml.safe_load((ROOT / "deploy/compose.yaml").read_text())
STORE, SERVICE = COMPOSE["services"]["store"], COMPOSE["services"]["service"]
PROGRAMS = pathlib.Path(sys.executable).parent
IMAGE = (ROOT / "tests/fixtures/plain.png").read_bytes()
PORTS = ["master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc", "s3.port.grpc"]


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def until(holds, what: str) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.1)


def answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(url).is_success
    return False


@contextlib.contextmanager
def store(folder: pathlib.Path) -> Iterator[str]:
    """Runs the store's command. Yields the address of its published port."""
    port, *others = free_ports(1 + len(PORTS))
    command = STORE["command"].replace("/data", f"{folder}/data").replace("0.0.0.0", "127.0.0.1").split()
    options = [f"-{name}={other}" for name, other in zip(PORTS, others, strict=True)]
    options += [f"-s3.port={port}", "-ip=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0"]
    (folder / "data").mkdir()
    with open(folder / "store.log", "w") as log:
        server = subprocess.Popen(
            [PROGRAMS / "weed", *command, *options],
            env={"HOME": str(folder), "PATH": os.environ["PATH"], **STORE["environment"]},
            cwd=folder, stdout=log, stderr=log,
        )
    try:
        [*_, health] = STORE["healthcheck"]["test"]
        until(lambda: answers(health.replace("8333", str(port))), f"the store is healthy: {folder}/store.log")
        yield f"http://127.0.0.1:{port}"
    finally:
        # An orderly shutdown takes 17 s, and the data is not needed any more.
        server.send_signal(signal.SIGKILL)
        server.wait()
        # It creates a socket in /tmp for each port, wherever its data is.
        for socket_file in (file for each in (port, *others) for file in pathlib.Path("/tmp").glob(f"seaweedfs-*-{each}.sock")):
            socket_file.unlink()


def check_uploads(base: str, address: str) -> None:
    key = {"X-API-Key": SERVICE["environment"]["API_KEYS"]}
    file = {"file": ("plain.png", IMAGE, "image/png")}
    assert httpx.post(f"{base}/images", files=file).status_code == 401
    # The bucket and its first volume are created some time after the store is healthy.
    until(lambda: httpx.post(f"{base}/images", files=file, headers=key, timeout=60).is_success, "an upload succeeds")
    image = httpx.post(f"{base}/images", files=file, headers=key).json()
    assert image["url"].startswith(f"{address}/images/"), f"{image['url']} is not at the published port"
    assert httpx.get(image["url"]).content == IMAGE
    for way in ("--direct", "--stream"):
        command = [BINARY, "upload", "--url", base, "--api-key", key["X-API-Key"], way, ROOT / "tests/fixtures/plain.jpg"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def check_rules(environment: dict[str, str]) -> None:
    """The store accepts the CORS and lifecycle rules, and doctor is satisfied with them."""
    for command, option, name in (
        ("put-bucket-cors", "--cors-configuration", "cors"),
        ("put-bucket-lifecycle-configuration", "--lifecycle-configuration", "lifecycle"),
    ):
        rules = f"file://{ROOT}/deploy/aws/{name}.json"
        subprocess.run([PROGRAMS / "aws", "s3api", command, "--bucket", "images", option, rules], check=True, env=environment)
    origins = {"CORS_ALLOW_ORIGIN": "https://example.com", "PUBLIC_URL": "https://images.example.com"}
    doctor = subprocess.run([BINARY, "doctor", "--json"], env={**environment, **origins}, text=True, stdout=subprocess.PIPE)
    findings = [json.loads(line) for line in doctor.stdout.splitlines()]
    # The machine's disk is not the subject.
    wrong = [one for one in findings if one["verdict"] != "ok" and one["check"] != "spill"]
    assert len(findings) > 25 and not wrong, wrong


def main() -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        with store(folder) as address:
            replaced = {"http://store:8333": address, "http://localhost:8333": address}
            settings = {name: replaced.get(value, value) for name, value in SERVICE["environment"].items()}
            with service(**settings, RUST_LOG="warn") as base:
                until(lambda: answers(f"{base}/readyz"), "the service is ready")
                check_uploads(base, address)
                check_rules({**os.environ, **settings})
    print("deploy/compose.yaml: both programs run as described; form, direct upload, link; CORS, lifecycle, doctor")


if __name__ == "__main__":
    main()
