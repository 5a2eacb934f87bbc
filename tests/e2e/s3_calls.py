"""Counts the calls to S3 for each way to upload an image, by the service's metrics with the embedded store, and compares them
with the table in docs/performance.md. Prints the rows that the table should have if they differ."""

import base64
import os
import re
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable

import httpx
from service import ROOT, service

MIB = 1 << 20
# The size of parts, of the service and of Uppy.
PART = 5 * MIB
PLAIN = (ROOT / "tests/fixtures/plain.png").read_bytes()
# S3 has two prices for requests, and some are free.
WRITES = {"PutObject", "CreateMultipartUpload", "UploadPart", "UploadPartCopy", "CompleteMultipartUpload", "ListObjectsV2",
          "ListMultipartUploads", "ListParts"}
READS = {"HeadObject", "GetObject"}
FREE = {"DeleteObject", "AbortMultipartUpload"}
CALL = re.compile(r'image_store_s3_call_duration_seconds_count\{operation="(\w+)",outcome="\w+"\} (\d+)')


def png(size: int) -> bytes:
    return PLAIN + os.urandom(size - len(PLAIN))


class Client:
    def __init__(self, base: str) -> None:
        self.http = httpx.Client(base_url=base, timeout=120)
        # What the client sent to the store itself.
        self.sent = Counter()

    def calls(self) -> Counter:
        """Returns the calls to S3 so far, after everything that runs has ended."""
        deadline = time.monotonic() + 30
        while "image_store_uploads_open 0\n" not in (metrics := self.http.get("/metrics").text):
            assert time.monotonic() < deadline, "an upload does not end"
        calls = Counter()
        for operation, count in CALL.findall(metrics):
            calls[operation] += int(count)
        return calls

    def form(self, size: int, **headers: str) -> dict:
        files = {"file": ("a.png", png(size), "image/png")}
        return self.http.post("/images", files=files, headers=headers).raise_for_status().json()

    def idempotent(self, size: int) -> dict:
        return self.form(size, **{"Idempotency-Key": os.urandom(16).hex()})

    def put(self, target: dict, content: bytes, operation: str) -> None:
        httpx.put(target["url"], headers=target["headers"], content=content, timeout=120).raise_for_status()
        self.sent[operation] += 1

    def direct(self, size: int) -> dict:
        plan = self.http.post("/uploads", json={"filename": "a.png", "size": size}).raise_for_status().json()
        content = png(size)
        if plan["kind"] == "put":
            self.put(plan, content, "PutObject")
        for part in plan.get("parts", []):
            start = (part["part_number"] - 1) * plan["part_size"]
            self.put(part, content[start : start + part["size"]], "UploadPart")
        answer = self.http.post(plan["complete_url"]).raise_for_status()
        assert answer.status_code == 200, answer.text
        return answer.json()

    def resumable(self, size: int, requests: int) -> None:
        """Uploads with tus, in several requests of equal size."""
        tus, content = {"Tus-Resumable": "1.0.0"}, png(size)
        name = base64.b64encode(b"a.png").decode()
        created = self.http.post("/files", headers=tus | {"Upload-Length": str(size), "Upload-Metadata": f"filename {name}"})
        address = created.raise_for_status().headers["Location"]
        tus["Content-Type"] = "application/offset+octet-stream"
        step = size // requests
        for offset in range(0, size, step):
            headers = tus | {"Upload-Offset": str(offset)}
            self.http.patch(address, headers=headers, content=content[offset : offset + step]).raise_for_status()

    def companion(self, size: int) -> None:
        """Uploads in parts as Uppy does."""
        begun = self.http.post("/s3/multipart", json={"filename": "a.png", "type": "image/png"}).raise_for_status().json()
        route, key, content, parts = f"/s3/multipart/{begun['uploadId']}", {"key": begun["key"]}, png(size), []
        for number, offset in enumerate(range(0, size, PART), 1):
            target = self.http.get(f"{route}/{number}", params=key).raise_for_status().json()
            stored = httpx.put(target["url"], content=content[offset : offset + PART], timeout=120).raise_for_status()
            parts.append({"PartNumber": number, "ETag": stored.headers["ETag"]})
        self.sent["UploadPart"] += len(parts)
        self.http.post(f"{route}/complete", params=key, json={"parts": parts}).raise_for_status()


def row(name: str, calls: Counter) -> str:
    priced = [sum(calls[operation] for operation in kind) for kind in (WRITES, READS)]
    assert set(calls) <= WRITES | READS | FREE, calls
    listed = ", ".join(f"{count} {operation}" for operation, count in sorted(calls.items()))
    return f"| {name} | {priced[0]} | {priced[1]} | {listed} |"


def count(client: Client, name: str, act: Callable[[], object]) -> str:
    before = client.calls() + client.sent
    act()
    return row(name, client.calls() + client.sent - before)


def rows(client: Client) -> list[str]:
    key = client.form(5_000)["s3_key"]
    ways = {
        "form or raw body, 2 MB": lambda: client.form(2_000_000),
        "form or raw body, 12 MiB": lambda: client.form(12 * MIB),
        "form or raw body, 100 MiB": lambda: client.form(100 * MIB),
        "the same with an `Idempotency-Key`, 2 MB": lambda: client.idempotent(2_000_000),
        "direct, 2 MB": lambda: client.direct(2_000_000),
        "direct, 150 MiB in parts": lambda: client.direct(150 * MIB),
        "resumable, 2 MB in one request": lambda: client.resumable(2_000_000, 1),
        "resumable, 2 MB in four requests": lambda: client.resumable(2_000_000, 4),
        "resumable, 100 MiB in one request": lambda: client.resumable(100 * MIB, 1),
        "resumable, 100 MiB in ten requests": lambda: client.resumable(100 * MIB, 10),
        "Uppy's parts, 150 MiB": lambda: client.companion(150 * MIB),
        "`GET /images/{s3_key}`, without the download": lambda: client.http.get(f"/images/{key}"),
        "`DELETE /images/{s3_key}`": lambda: client.http.delete(f"/images/{key}"),
    }
    return [count(client, name, act) for name, act in ways.items()]


def main() -> None:
    with tempfile.TemporaryDirectory() as data, service(DATA_DIR=data, RUST_LOG="warn") as base:
        counted = rows(Client(base))
    documented = (ROOT / "docs/performance.md").read_text().splitlines()
    if missing := [row for row in counted if row not in documented]:
        sys.exit("docs/performance.md must have these rows:\n" + "\n".join(missing))
    print(f"docs/performance.md: the calls to S3 are right in {len(counted)} rows")


if __name__ == "__main__":
    main()
