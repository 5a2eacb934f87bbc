"""Uploads files with tuspy, interrupts the uploads, resumes them, and compares the stored images with the files."""

import os
import pathlib
import socket
import socketserver
import sys
import tempfile
import threading
import time
import urllib.request

import requests
from service import service
from tusclient import client
from tusclient.exceptions import TusCommunicationError, TusUploadFailed

FIXTURES = pathlib.Path(__file__).resolve().parents[1] / "fixtures"
MIB = 1 << 20
PART = 5 * MIB


class Proxy(socketserver.ThreadingTCPServer):
    """Passes connections on to the service. Cuts one when it has passed on `limit` bytes and the service has stored a part."""

    allow_reuse_address = True
    daemon_threads = True
    limit: int | None = None

    def __init__(self, target: tuple[str, int], data: pathlib.Path) -> None:
        super().__init__(("127.0.0.1", 0), Connection)
        self.target = target
        self.data = data
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Connection(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        upstream = socket.create_connection(self.server.target)
        threading.Thread(target=self.copy_answers, args=(upstream,), daemon=True).start()
        passed = 0
        while data := self.request.recv(64 << 10):
            upstream.sendall(data)
            passed += len(data)
            if self.server.limit is not None and passed >= self.server.limit:
                until_a_part_is_stored(self.server.data)
                self.server.limit = None
                break
        for end in (upstream, self.request):
            cut(end)

    def copy_answers(self, upstream: socket.socket) -> None:
        try:
            while data := upstream.recv(64 << 10):
                self.request.sendall(data)
            self.request.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # The connection was cut.


def until_a_part_is_stored(data: pathlib.Path) -> None:
    deadline = time.monotonic() + 30
    while not any(file.stat().st_size >= PART for file in data.glob("uploads/*/*")):
        assert time.monotonic() < deadline, "no part is stored within 30 s"
        time.sleep(0.02)


def cut(end: socket.socket) -> None:
    """Shuts a connection down in both directions."""
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # The other side was faster.


def png(folder: str, size: int) -> pathlib.Path:
    head = (FIXTURES / "plain.png").read_bytes()
    file = pathlib.Path(folder) / f"{size}.png"
    file.write_bytes(head + os.urandom(size - len(head)))
    return file


def check(address: str, file: pathlib.Path) -> None:
    """Asserts that the finished upload is an image with the bytes of the file."""
    answer = requests.get(address, headers={"Accept": "application/json"})
    assert answer.status_code == 200, answer.text
    with urllib.request.urlopen(answer.json()["url"]) as image:
        assert image.read() == file.read_bytes(), "the stored image must be the file"


def uploader(tus: client.TusClient, file: pathlib.Path, **options):
    metadata = {"filename": file.name, "filetype": "image/png"}
    return tus.uploader(str(file), metadata=metadata, retries=5, retry_delay=1, **options)


def cut_connection(proxy: Proxy, folder: str) -> None:
    """The connection of the only PATCH is cut. The client asks for the offset and continues there."""
    file = png(folder, 13 * MIB)
    proxy.limit = 8 * MIB
    upload = uploader(client.TusClient(f"{proxy.url}/files"), file)
    upload.upload()
    assert proxy.limit is None, "the connection must have been cut"
    assert upload.offset == 13 * MIB, upload.offset
    check(upload.url, file)


def next_process(proxy: Proxy, folder: str) -> None:
    """A second client, which has only the address, continues in chunks after the first has failed."""
    file = png(folder, 12 * MIB)
    first = uploader(client.TusClient(f"{proxy.url}/files"), file)
    first.retries = 0
    proxy.limit = 7 * MIB
    try:
        first.upload()
        raise AssertionError("the connection must have been cut")
    except (TusUploadFailed, TusCommunicationError):
        pass
    second = client.TusClient(f"{proxy.url}/files").uploader(str(file), url=first.url, chunk_size=3 * MIB)
    assert PART <= second.offset < 8 * MIB, second.offset
    second.upload()
    check(first.url, file)


def main() -> int:
    with tempfile.TemporaryDirectory() as folder, service(DATA_DIR=f"{folder}/data", RUST_LOG="warn") as base:
        host, port = base.removeprefix("http://").split(":")
        with Proxy((host, int(port)), pathlib.Path(folder, "data")) as proxy:
            for test in (cut_connection, next_process):
                test(proxy, folder)
                print(f"tuspy: {test.__name__} passed")
            proxy.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
