"""Tests the service with SeaweedFS, a real S3 server: uploads by clients, then sweep and doctor.

After each step, the file list of the store itself (SeaweedFS's filer, below its S3 gateway) shows what is stored.
"""

import hashlib
import json
import os
import socket
import subprocess
import time
import urllib.parse
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
from service import BINARY, ROOT, service

MIB = 1 << 20
FILER = os.environ["SEAWEEDFS_FILER"]
BUCKET = os.environ["TEST_S3_BUCKET"]
STORE = {
    "AWS_ENDPOINT_URL_S3": os.environ["TEST_S3_ENDPOINT"],
    "S3_BUCKET": BUCKET,
    "S3_FORCE_PATH_STYLE": "true",
    "DIRECT_PUT_MAX": "6MiB",
    # The result of doctor must not depend on the machine's disk.
    "SPILL_BUDGET": "0",
    "CORS_ALLOW_ORIGIN": "https://pages.example",
}
PLAIN = (ROOT / "tests/fixtures/plain.png").read_bytes()


def png(size: int) -> bytes:
    """Returns a PNG of `size` bytes whose tail is random, so that each call returns another one."""
    return PLAIN + os.urandom(size - len(PLAIN))


def listed(folder: str) -> list[dict]:
    url = f"{FILER}/buckets/{BUCKET}/{folder}"
    answer = httpx.get(url, headers={"Accept": "application/json"}, params={"limit": 10_000})
    if answer.status_code == 404:
        return []
    answer.raise_for_status()
    assert not answer.json()["ShouldDisplayLoadMore"], "more files than one page"
    return answer.json()["Entries"] or []


def names(folder: str = "") -> set[str]:
    """Returns the objects in a folder of the bucket, or the unfinished uploads in `.uploads/`."""
    return {name for entry in listed(folder) if (name := entry["FullPath"].rsplit("/", 1)[1]) and is_content(entry)}


def is_content(entry: dict) -> bool:
    is_folder = entry["Mode"] >> 31
    return not is_folder or "/.uploads/" in entry["FullPath"]


def unfinished() -> set[str]:
    return names(".uploads/")


def body_of(answer: httpx.Response, status: int, code: str | None) -> dict:
    """Checks the status and the error code of an answer. Returns its JSON."""
    what = f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
    assert answer.status_code == status, what
    body = answer.json() if answer.content else {}
    assert body.get("code") == code, what
    return body


class Client:
    """A client of the service at `base`."""

    def __init__(self, base: str, **options: Any) -> None:
        self.http = httpx.Client(base_url=base, timeout=60, **options)

    def ask(self, method: str, url: str, status: int, code: str | None = None, **request) -> dict:
        return body_of(self.http.request(method, url, **request), status, code)

    def plan(self, size: int, kind: str, **more: str) -> dict:
        plan = self.ask("POST", "/uploads", 201, json={"filename": "photo.png", "size": size, **more})
        assert plan["kind"] == kind, plan
        return plan

    def complete(self, plan: dict, status: int = 200, code: str | None = None) -> dict:
        deadline = time.monotonic() + 60
        # Each request is answered 202 after COMPLETE_WAIT.
        while (answer := self.http.post(plan["complete_url"])).status_code == 202:
            assert time.monotonic() < deadline, "still verifying"
        return body_of(answer, status, code)

    def check_image(self, image: dict, content: bytes) -> None:
        assert (image["content_type"], image["size"]) == ("image/png", len(content)), image
        assert (image["width"], image["height"]) == (16, 12), image
        assert httpx.get(image["url"]).content == content, "the link returns other bytes"
        opened = self.http.get(f"/images/{image['s3_key']}", follow_redirects=True)
        assert opened.content == content, "the image's address returns other bytes"

    def check_unreadable(self, key: str) -> None:
        self.ask("GET", f"/images/{key}", 404, "not_found")
        assert key not in names(), f"{key} is an image"

    def delete(self, image: dict) -> None:
        self.ask("DELETE", f"/delete/{image['s3_key']}", 200)
        self.ask("DELETE", f"/delete/{image['s3_key']}", 404, "not_found")
        assert httpx.get(image["url"]).status_code == 404, "the link must not work after the image is deleted"
        self.check_unreadable(image["s3_key"])


def put(target: dict, content: bytes) -> int:
    """Sends the request that a plan, or a part of it, describes. Returns the status that the store answers."""
    return httpx.put(target["url"], headers=target["headers"], content=content, timeout=60).status_code


def put_half(target: dict, content: bytes) -> None:
    """Starts to send a part and closes the connection half-way."""
    url = urllib.parse.urlsplit(target["url"])
    head = [f"PUT {url.path}?{url.query} HTTP/1.1", f"Host: {url.netloc}"]
    head += [f"{name}: {value}" for name, value in target["headers"].items()]
    with socket.create_connection((url.hostname, url.port)) as connection:
        connection.sendall("\r\n".join([*head, "", ""]).encode() + content[: len(content) // 2])


def cut(plan: dict, content: bytes) -> dict[int, bytes]:
    """Returns the parts of a file by number."""
    size = plan["part_size"]
    parts = {number: content[start : start + size] for number, start in enumerate(range(0, len(content), size), 1)}
    assert [len(part) for part in parts.values()] == [part["size"] for part in plan["parts"]]
    return parts


def through_the_service(client: Client) -> None:
    """Uploads forms and raw bodies, of one part and of several."""
    for size in (len(PLAIN), 100_000, 11 * MIB + 7):
        content = png(size)
        form = client.ask("POST", "/upload-image", 200, files={"file": ("a.png", content, "image/png")})
        client.check_image(form, content)
        raw = client.ask("POST", "/upload-image", 200, content=content, headers={"Content-Type": "image/png"})
        client.check_image(raw, content)
        client.delete(form)
        client.delete(raw)
    before = names()
    text = b"<html>" * (2 * MIB)
    client.ask(
        "POST", "/upload-image", 400, "invalid_file_type", files={"file": ("a.png", text, "image/png")}
    )
    assert (names(), unfinished()) == (before, set())


def sent_again(client: Client, other: Client) -> None:
    """One image under one Idempotency-Key, sent eight times at once to two processes."""
    for size in (len(PLAIN), 11 * MIB + 7):
        content = png(size)
        headers = {"Content-Type": "image/png", "Idempotency-Key": f'"{uuid.uuid4()}"'}

        def send(to: Client, content: bytes = content, headers: dict = headers) -> dict:
            return to.ask("POST", "/upload-image", 200, content=content, headers=headers)

        with ThreadPoolExecutor(8) as pool:
            images = list(pool.map(send, [client, other] * 4))
        assert len({image["s3_key"] for image in images}) == 1, images
        reused = "idempotency_key_reused"
        client.ask("POST", "/upload-image", 422, reused, content=png(size + 1), headers=headers)
        client.check_image(send(other), content)
        client.delete(images[0])
    # Who came too late is answered before its parts are gone.
    deadline = time.monotonic() + 10
    while unfinished():
        assert time.monotonic() < deadline, unfinished()


def by_grant(grant: str, content: bytes) -> list[dict]:
    """Returns the requests that upload with a grant: in the header, in the path and in a form field."""
    bearer, png_type = {"Authorization": f"Bearer {grant}"}, {"Content-Type": "image/png"}
    return [
        {"url": "/images", "content": content, "headers": bearer | png_type},
        {"url": f"/g/{grant}/images", "content": content, "headers": png_type},
        # A key that the client sends with every request would take precedence over the field.
        {"url": "/upload-image", "data": {"grant": grant}, "files": {"file": ("a.png", content, "image/png")}}
        | {"headers": {"Authorization": ""}},
    ]


def with_a_grant(client: Client, other: Client) -> None:
    """A grant for one key, in two processes: the same bytes are answered alike, other bytes and a plan are rejected."""
    claims = {"filename": "photo.png", "metadata": {"owner": "7"}, "max_size": 12 * MIB}
    grant = client.ask("POST", "/grants", 201, json=claims)
    token = grant["grant"]
    for size in (1000, 12 * MIB):
        content = png(size)
        images = [each.ask("POST", status=200, **way) for way in by_grant(token, content) for each in (client, other)]
        for image in images:
            assert (image["s3_key"], image["metadata"]) == (grant["s3_key"], {"owner": "7"}), image
            client.check_image(image, content)
        another = content[:-1] + bytes([content[-1] ^ 1])
        for way in by_grant(token, another):
            other.ask("POST", status=409, code="already_exists", **way)
        for way in by_grant(token, png(13 * MIB)):
            other.ask("POST", status=413, code="payload_too_large", **way)
        plan = {"filename": "photo.png", "size": size}
        bearer = {"Authorization": f"Bearer {token}"}
        other.ask("POST", "/uploads", 409, "already_exists", json=plan, headers=bearer)
        client.delete(images[0])


def with_a_grant_for_any_image(client: Client, other: Client) -> None:
    """A grant without a key: every upload makes another image, whatever its bytes are."""
    grant = client.ask("POST", "/grants", 201, json={"metadata": {"owner": "8"}, "max_size": 12 * MIB})
    assert "s3_key" not in grant, grant
    for size in (1000, 12 * MIB):
        content = png(size)
        ways = by_grant(grant["grant"], content)
        images = [each.ask("POST", status=200, **way) for way in ways for each in (client, other)]
        assert len({image["s3_key"] for image in images}) == len(images), images
        for image in images:
            assert image["metadata"] == {"owner": "8"}, image
            client.check_image(image, content)
            other.delete(image)


def in_one_put(client: Client) -> None:
    content = png(5 * MIB)
    plan = client.plan(len(content), "put", sha256=hashlib.sha256(content).hexdigest())
    client.complete(plan, 404, "not_found")
    assert put(plan, png(len(content))) == 400, "other bytes than planned"
    assert put(plan, content) == 200
    assert put(plan, content) == 412, "the URL must work only once"
    client.check_unreadable(plan["s3_key"])
    assert client.ask("GET", plan["status_url"], 200)["state"] == "verifying"

    image = client.complete(plan)
    client.check_image(image, content)
    client.check_image(client.complete(plan), content)
    assert client.ask("GET", plan["status_url"], 200)["state"] == "complete"
    client.ask("DELETE", plan["abort_url"], 409, "already_complete")
    assert put(plan, content) == 412, "the URL must not work after the image is complete"

    client.delete(image)
    assert put(plan, content) == 412, "the URL must not work after the image is deleted"
    client.complete(plan, 404, "not_found")
    client.check_unreadable(plan["s3_key"])


def in_parts(client: Client, resumed: Client) -> None:
    """Interrupts an upload in the middle of a part. `resumed` resumes it."""
    content = png(13 * MIB + 7)
    plan = client.plan(len(content), "multipart")
    parts = cut(plan, content)
    assert put(plan["parts"][1], parts[2]) == 200
    put_half(plan["parts"][0], parts[1])
    client.complete(plan, 409, "parts_missing")

    status = resumed.ask("GET", plan["status_url"], 200)
    assert status["state"] == "uploading", status
    missing = [part for part in status["parts"] if "url" in part]
    assert [part["part_number"] for part in missing] == [1, 3], status
    assert status["parts"][1]["etag"].strip('"') == hashlib.md5(parts[2]).hexdigest(), status
    for part in missing:
        assert put(part, parts[part["part_number"]]) == 200
    resumed.check_unreadable(plan["s3_key"])

    image = resumed.complete(plan)
    resumed.check_image(image, content)
    resumed.check_image(client.complete(plan), content)
    client.ask("DELETE", plan["abort_url"], 409, "already_complete")
    assert put(plan["parts"][2], parts[3]) == 404, "no part may arrive after the upload is complete"
    assert unfinished() == set()

    resumed.delete(image)
    client.complete(plan, 404, "not_found")
    client.check_unreadable(plan["s3_key"])


def aborted(client: Client) -> None:
    content = png(11 * MIB)
    small, unsent = client.plan(100_000, "put"), client.plan(100_000, "put")
    assert put(small, content[:100_000]) == 200
    large = client.plan(len(content), "multipart")
    parts = cut(large, content)
    assert put(large["parts"][0], parts[1]) == 200
    for plan in (small, unsent, large):
        client.ask("DELETE", plan["abort_url"], 204)
        client.ask("DELETE", plan["abort_url"], 204)
        client.complete(plan, 404, "not_found")
        client.check_unreadable(plan["s3_key"])
    for part in large["parts"]:
        assert put(part, parts[part["part_number"]]) == 404, "no part may arrive after an abort"
    for plan in (small, unsent):
        assert put(plan, content[:100_000]) == 412, "no object may arrive after an abort"
        client.complete(plan, 404, "not_found")
        client.check_unreadable(plan["s3_key"])
    assert unfinished() == set()


def not_an_image(client: Client) -> None:
    text = b"<html>" * (2 * MIB)
    small, large = client.plan(6_000, "put"), client.plan(len(text), "multipart")
    assert put(small, text[:6_000]) == 200
    for part in large["parts"]:
        assert put(part, cut(large, text)[part["part_number"]]) == 200
    for plan in (small, large):
        client.complete(plan, 400, "invalid_file_type")
        client.check_unreadable(plan["s3_key"])
    assert put(small, png(6_000)) == 412, "no object may arrive after a rejection"
    client.complete(small, 404, "not_found")
    assert unfinished() == set()


def left_behind(client: Client) -> None:
    """Leaves uploads unfinished, as a client that never comes back does, for the sweep."""
    content = png(11 * MIB)
    put_plan, parts_plan = client.plan(100_000, "put"), client.plan(len(content), "multipart")
    assert put(put_plan, content[:100_000]) == 200
    assert put(parts_plan["parts"][0], cut(parts_plan, content)[1]) == 200
    assert put_plan["s3_key"] in names("incoming/")
    assert len(unfinished()) == 1, unfinished()


def run(*arguments: str, **settings: str) -> str:
    """Runs a command of the binary, which must succeed. Returns its output."""
    done = subprocess.run([BINARY, *arguments], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="")
    assert done.returncode == 0, f"{' '.join(arguments)} exited with status {done.returncode}"
    return done.stdout


def sweep(settings: dict[str, str]) -> str:
    """Sweeps until nothing is left under incoming/, because a marker is kept for as long as the URLs of its plan work. Returns
    the output of the first sweep."""
    give_up, outputs = time.monotonic() + 15, []
    while not outputs or names("incoming/"):
        assert time.monotonic() < give_up, names("incoming/")
        outputs.append(run("sweep", "--older-than", "0s", **settings | {"UPLOAD_URL_TTL": "1s"}))
    return outputs[0]


def check(**settings: str) -> None:
    """Tests every kind of upload, reading and deleting with these settings."""
    settings = STORE | settings
    assert (names(), names("incoming/"), unfinished()) == (set(), set(), set()), "the bucket is not empty"
    content = png(11 * MIB)
    with service(**settings) as first, service(**settings) as second:
        client, other = Client(first), Client(second)
        through_the_service(client)
        sent_again(client, other)
        with_a_grant(client, other)
        with_a_grant_for_any_image(client, other)
        in_one_put(client)
        in_parts(client, other)
        aborted(client)
        not_an_image(client)
        left_behind(client)
        image = client.ask("POST", "/upload-image", 200, files={"file": ("a.png", content, "image/png")})

        assert "aborted 1 unfinished uploads" in sweep(settings)
        assert (names(), names("incoming/"), unfinished()) == ({image["s3_key"]}, set(), set())
        client.check_image(image, content)

        findings = [json.loads(line) for line in run("doctor", "--json", **settings).splitlines()]
        verdicts = {finding["check"]: finding["verdict"] for finding in findings if finding["verdict"] != "ok"}
        assert verdicts == {"lifecycle": "warn"}, findings
        assert (names(), names("incoming/"), unfinished()) == ({image["s3_key"]}, set(), set())
        client.delete(image)
    sweep(settings)
    assert (names(), names("incoming/"), unfinished()) == (set(), set(), set()), "something is left"


if __name__ == "__main__":
    for checksum in ("auto", "crc64nvme"):
        started = time.monotonic()
        check(S3_CHECKSUM=checksum)
        print(f"S3_CHECKSUM={checksum}: everything works with SeaweedFS, in {time.monotonic() - started:.1f} s")
