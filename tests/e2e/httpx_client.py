"""The old service's own client, unchanged, against the real binary: httpx, a form, then DELETE."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.environ.get("BIN", str(ROOT / "target/release/image-store"))


def upload(base: str, name: str, data: bytes, content_type: str) -> httpx.Response:
    return httpx.post(f"{base}/upload-image", files={"file": (name, data, content_type)})


def check(base: str) -> None:
    image = (ROOT / "tests/fixtures/plain.jpg").read_bytes()
    answer = upload(base, "photo ü.jpg", image, "image/jpeg")
    assert answer.status_code == 200, answer.text
    stored = answer.json()
    assert httpx.get(stored["url"]).content == image
    assert httpx.get(f"{base}/images/{stored['s3_key']}", follow_redirects=True).content == image

    deleted = httpx.delete(f"{base}/delete/{stored['s3_key']}")
    assert deleted.status_code == 200, deleted.text
    assert deleted.json()["detail"] == f"File '{stored['s3_key']}' deleted successfully"
    assert httpx.delete(f"{base}/delete/{stored['s3_key']}").status_code == 404
    assert httpx.get(stored["url"]).status_code == 404

    refused = upload(base, "page.html", b"<html>", "text/html")
    assert (refused.status_code, refused.json()["detail"]) == (400, "Invalid file type")
    empty = httpx.post(f"{base}/upload-image", files={"other": ("a.jpg", image, "image/jpeg")})
    assert (empty.status_code, empty.json()["detail"]) == (400, "No file uploaded")


def main() -> int:
    with tempfile.TemporaryDirectory() as data:
        environment = {**os.environ, "DATA_DIR": data, "PORT": "0"}
        server = subprocess.Popen([BINARY], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            line = server.stdout.readline()
            check(re.match(r"image-store listens on (http://\S+),", line).group(1))
        finally:
            server.send_signal(signal.SIGTERM)
            status = server.wait(timeout=60)
    print(f"the httpx client is served; the server ended with {status}")
    return status


if __name__ == "__main__":
    sys.exit(main())
