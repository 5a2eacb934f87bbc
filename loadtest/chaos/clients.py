"""The clients: honest ones, and those that leave, abandon, lie, and ask for two things at once."""

import asyncio
import contextlib
import hashlib
import json
import random
import time
import urllib.parse
from collections.abc import AsyncIterator

from services import Instance
from uploads import Unanswered, Upload, draw
from wire import GONE, Answer, Head, Peer

# An answer that takes longer is taken for none, in seconds.
PATIENCE = 120
# How long a client asks again for what is not decided.
PERSISTENCE = 60
KEYS = {scope: f"chaos-key-that-may-{scope}" for scope in ("upload", "read", "delete")}
BOUNDARY = "chaos-boundary"


class Left(ConnectionError):
    """The client has left, by itself."""


class Undecided(Exception):
    """No answer said what became of a request."""


class Client:
    """The client of one upload."""

    def __init__(self, upload: Upload, dice: random.Random, instances: list[Instance]) -> None:
        self.upload, self.dice, self.instances = upload, dice, instances

    # Requests

    @contextlib.asynccontextmanager
    async def connection(self, what: str) -> AsyncIterator[Peer]:
        """To either instance. One that is not there has done nothing: the client goes to the other."""
        while True:
            instance = self.dice.choice(self.instances)
            with contextlib.suppress(ConnectionRefusedError):
                peer = await Peer.connect("127.0.0.1", instance.port)
                break
            await asyncio.sleep(0.05)
        began = time.monotonic()
        try:
            async with asyncio.timeout(PATIENCE):
                yield peer
        except GONE as gone:
            if not isinstance(gone, Left):
                self.upload.note(f"{what}: no answer of {instance.number} ({type(gone).__name__})")
                self.upload.unanswered.append(Unanswered(what, instance.number, began, time.monotonic()))
            raise
        finally:
            peer.close()

    def head(self, method: str, target: str, scope: str | None, **fields: str) -> bytes:
        trace = f"00-{self.upload.number:032x}-{self.dice.randrange(1, 1 << 64):016x}-01"
        named = {"host": "images", "connection": "close", "traceparent": trace}
        if scope:
            named["authorization"] = f"Bearer {KEYS[scope]}"
        named |= {name.replace("_", "-"): value for name, value in fields.items()}
        return Head([method, target, "HTTP/1.1"], list(named.items())).encoded()

    async def once(self, what: str, method: str, target: str, scope: str | None = None, body: bytes = b"") -> Answer:
        async with self.connection(what) as peer:
            fields = {"content_type": "application/json", "content_length": str(len(body))} if body else {}
            await peer.send(self.head(method, target, scope, **fields) + body)
            answer = await peer.answer(method)
        self.upload.note(f"{what}: {answer.status} {code_of(answer)}")
        return answer

    async def ask(self, what: str, method: str, target: str, scope: str | None = None, body: bytes = b"") -> Answer:
        """Asks until something is decided."""
        until = time.monotonic() + PERSISTENCE
        while time.monotonic() < until:
            with contextlib.suppress(*GONE):
                answer = await self.once(what, method, target, scope, body)
                if answer.status < 500 and answer.status != 202 and code_of(answer) != "verifying":
                    return answer
            await asyncio.sleep(self.dice.uniform(0.05, 0.5))
        raise Undecided(what)

    # Through the service

    async def stream(self) -> None:
        upload, way = self.upload, self.upload.way
        content = upload.content()
        body = form(upload, content) if way == "form" else content
        kind = f"multipart/form-data; boundary={BOUNDARY}" if way == "form" else upload.content_type
        length = {"transfer_encoding": "chunked"} if way == "chunked" else {"content_length": str(len(body))}
        sent = chunked(body) if way == "chunked" else body
        try:
            async with self.connection("upload") as peer:
                await peer.send(self.head("POST", "/upload-image", "upload", content_type=kind, **length))
                answer = await self.deliver(peer, sent)
        except GONE:
            return
        upload.note(f"upload: {answer.status} {code_of(answer)}")
        await self.take_image(answer)
        if upload.stored and upload.act == "delete":
            await self.delete()

    async def deliver(self, peer: Peer, sent: bytes) -> Answer:
        """Sends a body as the upload's act has it, and waits for the answer, which may come first."""
        upload, patience = self.upload, None
        if upload.act == "leave inside":
            await peer.send(sent[: self.dice.randrange(len(sent))])
            return self.leave(peer, "inside its body")
        if upload.act == "short":
            sent = sent[: self.dice.randrange(len(sent))]
        sending = asyncio.create_task(peer.send(sent))
        if upload.act == "short":
            sending.add_done_callback(lambda done: done.cancelled() or done.exception() or peer.writer.write_eof())
        try:
            if upload.act == "leave at the end":
                await sending
                patience = self.dice.expovariate(20)
            async with asyncio.timeout(patience):
                return await peer.answer("POST")
        except TimeoutError:
            return self.leave(peer, "after its last byte")
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    def leave(self, peer: Peer, where: str) -> Answer:
        self.upload.left = where
        self.upload.note(f"left {where}")
        self.dice.choice((peer.reset, peer.close))()
        raise Left

    # Straight to the store

    async def direct(self) -> None:
        upload, act = self.upload, self.upload.act
        content = upload.content()
        wish = {"filename": f"photo.{upload.extension}", "size": upload.size}
        sha256 = hashlib.sha256(b"others" if act == "other sha256" else content).hexdigest()
        answer = await self.ask("plan", "POST", "/uploads", "upload", json.dumps(wish | {"sha256": sha256}).encode())
        if code_of(answer) == "invalid_request":
            # Of parts S3 checks no SHA-256.
            upload.act = "keep" if act == "other sha256" else act
            act = upload.act
            answer = await self.ask("plan", "POST", "/uploads", "upload", json.dumps(wish).encode())
        if answer.status != 201:
            upload.wrong.append(f"wrongly rejected: plan {answer.status}")
            return
        plan = json.loads(answer.body)
        upload.key, upload.links, upload.way = plan["s3_key"], plan, f"direct, {plan['kind']}"
        if act == "abandon":
            return
        if act == "abort":
            await self.abort()
            return
        if not await self.put_all(plan, content):
            return
        await self.check_unreadable("unacknowledged", "before it was complete")
        await self.conclude(act)

    async def conclude(self, act: str) -> None:
        match act:
            case "abandon, sent":
                return
            case "complete twice":
                await asyncio.gather(self.complete(), self.complete())
            case "abort while completing":
                await asyncio.gather(self.complete(), self.later(self.abort))
            case "delete while completing":
                await asyncio.gather(self.complete(), self.later(self.delete))
            case "leave while completing":
                await self.complete_and_leave()
                await self.complete()
            case _:
                await self.complete()
        if act == "delete" and self.upload.stored:
            await self.delete()
        if self.upload.withdrawn:
            await self.check_unreadable("restored", "after it was withdrawn")

    async def later(self, work) -> None:
        await asyncio.sleep(self.dice.expovariate(20))
        await work()

    async def put_all(self, plan: dict, content: bytes) -> bool:
        """Sends what was planned, or something else; whether the client goes on."""
        size = plan.get("part_size", len(content))
        targets = plan.get("parts") or [plan]
        pieces = [content[start : start + size] for start in range(0, len(content), size)]
        if self.upload.act == "short":
            pieces[-1] = pieces[-1][:-1]
        if self.upload.act == "long":
            pieces[-1] += b"!"
        puts = [self.put(target, piece, number == 0) for number, (target, piece) in enumerate(zip(targets, pieces))]
        done = await asyncio.gather(*puts)
        return all(done) or self.upload.is_lie

    async def put(self, target: dict, content: bytes, first: bool) -> bool:
        """PUTs until the store has the bytes, or says that it does not want them."""
        leaves = first and self.upload.act == "leave inside"
        answer = await self.exchange("PUT", target["url"], target["headers"], content, leaves)
        self.upload.note(f"PUT: {answer.status if answer else 'given up'}")
        # 412: an attempt that got no answer has arrived.
        return answer is not None and answer.status in (200, 412)

    async def exchange(self, method: str, address: str, headers: dict, content: bytes, leaves: bool = False) -> Answer | None:
        """A request to the store by a presigned URL, again and again while it fails; where the client `leaves`, its first
        attempt ends in the middle of the body."""
        url = urllib.parse.urlsplit(address)
        fields = {name.replace("-", "_"): value for name, value in headers.items()} | {"host": url.netloc}
        if content:
            fields["content_length"] = str(len(content))
        for _ in range(12):
            with contextlib.suppress(*GONE):
                peer = await Peer.connect(url.hostname, url.port)
                try:
                    async with asyncio.timeout(self.dice.uniform(3, 6)):
                        await peer.send(self.head(method, f"{url.path}?{url.query}", None, **fields))
                        await peer.send(content[: len(content) // 2] if leaves else content)
                        answer = None if leaves else await peer.answer(method)
                finally:
                    peer.close()
                leaves = False
                if answer and answer.status < 500:
                    return answer
        return None

    async def complete(self) -> None:
        with self.undecided("complete"):
            await self.take_image(await self.ask("complete", "POST", self.upload.links["complete_url"]))

    async def complete_and_leave(self) -> None:
        with contextlib.suppress(Left):
            async with self.connection("complete") as peer:
                await peer.send(self.head("POST", self.upload.links["complete_url"], None))
                await asyncio.sleep(self.dice.expovariate(10))
                self.leave(peer, "while it was completed")

    async def abort(self) -> None:
        with self.undecided("abort"):
            answer = await self.ask("abort", "DELETE", self.upload.links["abort_url"])
            self.upload.withdrawn |= answer.status == 204

    async def delete(self) -> None:
        with self.undecided("delete"):
            answer = await self.ask("delete", "DELETE", f"/delete/{self.upload.key}", "delete")
            earlier_attempts = sum(what.startswith("delete:") for _, what in self.upload.events) > 1
            self.upload.withdrawn |= answer.status == 200
            if answer.status == 404 and earlier_attempts:
                # One of those may have deleted it, before or after it was completed: only another one says.
                raise Undecided("delete")

    async def decide(self) -> None:
        """Asks for what was left open, once nothing fails any more."""
        left, self.upload.open = self.upload.open, []
        for what in left:
            with self.undecided(what):
                match what:
                    case "complete":
                        await self.complete()
                    case "abort":
                        await self.abort()
                    case "delete":
                        answer = await self.ask("delete", "DELETE", f"/delete/{self.upload.key}", "delete")
                        self.upload.withdrawn |= answer.status in (200, 404)

    @contextlib.contextmanager
    def undecided(self, what: str):
        try:
            yield
        except Undecided:
            self.upload.open.append(what)

    async def take_image(self, answer: Answer) -> None:
        upload = self.upload
        if answer.status != 200:
            upload.refused = answer.status < 500 and answer.status != 409
            may_be_over = upload.is_lie or upload.act in ("abort while completing", "delete while completing")
            if answer.status < 500 and not may_be_over:
                upload.wrong.append(f"wrongly rejected: {answer.status} {code_of(answer)}")
            return
        image = json.loads(answer.body)
        upload.stored = True
        if upload.is_lie:
            upload.wrong.append("wrongly accepted: an incorrect upload was answered with success")
        if upload.key not in (None, image["s3_key"]) or image["size"] != upload.size:
            upload.wrong.append(f"altered: answered {image['s3_key']}, {image['size']} bytes")
        upload.key = image["s3_key"]
        if upload.act == "keep" and self.dice.random() < 0.2:
            await self.read_back()

    # Reading

    async def read_back(self) -> None:
        with contextlib.suppress(Undecided):
            answer = await self.ask("read", "GET", f"/images/{self.upload.key}", "read")
            if answer.status != 307:
                self.upload.wrong.append(f"lost: read {answer.status} after its success")
                return
            answer = await self.exchange("GET", answer.head.get("location"), {}, b"")
            if answer and hashlib.sha256(answer.body).hexdigest() != self.upload.sha256:
                self.upload.wrong.append(f"altered: its link reads {answer.status}, {len(answer.body)} bytes")

    async def check_unreadable(self, category: str, when: str) -> None:
        with contextlib.suppress(Undecided):
            answer = await self.ask("read", "GET", f"/images/{self.upload.key}", "read")
            if answer.status != 404:
                self.upload.wrong.append(f"{category}: {answer.status} {when}")


def form(upload: Upload, content: bytes) -> bytes:
    name = f'form-data; name="file"; filename="photo.{upload.extension}"'
    head = f"--{BOUNDARY}\r\nContent-Disposition: {name}\r\nContent-Type: {upload.content_type}\r\n\r\n"
    field = head.encode() + content + b"\r\n"
    files = 2 if upload.act == "two files" else 1
    return field * files + f"--{BOUNDARY}--\r\n".encode()


def chunked(body: bytes) -> bytes:
    pieces = [body[start : start + 48_000] for start in range(0, len(body), 48_000)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


def code_of(answer: Answer) -> str:
    with contextlib.suppress(ValueError, AttributeError):
        return json.loads(answer.body).get("code", "")
    return ""


async def run_upload(number: int, seed: str, instances: list[Instance]) -> Client:
    """One upload from its beginning to what its client believes to be its end."""
    upload, dice = draw(number, seed)
    upload.describe()
    client = Client(upload, dice, instances)
    # Undecided: nothing was planned for this client.
    with contextlib.suppress(Undecided):
        await (client.direct() if upload.way == "direct" else client.stream())
    return client
