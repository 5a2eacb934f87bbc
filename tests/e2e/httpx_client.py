"""Runs the client of the old service, unchanged, against the real binary: httpx, a form, then DELETE."""

import tempfile

import httpx
from service import ROOT, service


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


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as data, service(DATA_DIR=data) as base:
        check(base)
    print("the httpx client works with the service")
