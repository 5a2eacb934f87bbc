"""A proxy before an S3 that fails one call in so many, each in another way, and remembers every call.

It forwards heads as they are, `Host` included, so signatures hold. Calls belong to uploads by their `traceparent`, whose
trace id is the upload's number: the service passes it on.
"""

import asyncio
import collections
import contextlib
import functools
import random
import re
import time
import urllib.parse
from dataclasses import dataclass

from wire import GONE, Answer, Head, Peer

# What can happen to a call instead of its answer.
FAULTS = {
    "lost": "forwarded, then reset without the answer",
    "cut": "forwarded, then reset in the middle of the answer",
    "500": "answered InternalError, not forwarded",
    "503": "answered SlowDown, not forwarded",
    "reset": "reset before anything is forwarded",
    "half": "reset on both sides in the middle of the request's body",
    "hang": "never answered, not forwarded",
    "late": "never answered, and forwarded after its caller has given up",
}
# Every so many faults the next two attempts fail as well, so that the caller's retries do not help.
STUBBORN = 3
# How long after its caller has given up a late call arrives, at most; in seconds.
LATE = 2.0
ERROR = "<?xml version='1.0'?><Error><Code>{}</Code><Message>Injected.</Message></Error>"


@dataclass
class Call:
    """One attempt at one S3 call."""

    instance: int
    began: float
    operation: str
    key: str
    fault: str | None
    # By a client, with a presigned URL.
    presigned: bool
    status: int | None = None
    ended: float | None = None
    # When a late call arrived at the store.
    arrived: float | None = None

    def __str__(self) -> str:
        late = f", {self.arrived - self.began:.2f} s later" if self.arrived else ""
        who = "a client" if self.presigned else self.instance
        return f"{self.operation} {self.key} by {who}: {self.fault or ''} {self.status or 'no answer'}{late}"


def operation(head: Head, query: dict[str, str]) -> str:
    """The S3 operation's name."""
    method, path = head.first[0], head.first[1].split("?")[0]
    if method == "PUT" and "partNumber" in query:
        return "UploadPartCopy" if head.get("x-amz-copy-source") else "UploadPart"
    if "uploads" in query:
        return "CreateMultipartUpload" if method == "POST" else "ListMultipartUploads"
    if "uploadId" in query:
        return {"POST": "CompleteMultipartUpload", "DELETE": "AbortMultipartUpload", "GET": "ListParts"}[method]
    has_key = path.strip("/").count("/") > 0
    return f"{method.capitalize()}Object" if has_key else f"{method.capitalize()}Bucket"


class Proxy:
    def __init__(self, store: str, rate: float, seed: str) -> None:
        where = urllib.parse.urlsplit(store)
        self.store = (where.hostname, where.port)
        self.rate = rate
        self.random = random.Random(seed)
        # By upload number; 0: of none.
        self.calls: dict[int, list[Call]] = collections.defaultdict(list)
        # Of every multipart upload begun, by its id.
        self.begun: dict[str, tuple[int, Call]] = {}
        # Of keys, by what was done under them.
        self.numbers: dict[str, int] = {}
        self.late: set[asyncio.Task] = set()
        self.idle: set[Peer] = set()
        # Open connections by instance, and who serves them.
        self.open = collections.Counter()
        self.serving: set[asyncio.Task] = set()
        self.stubborn: dict[str, int] = {}

    async def listen(self, instance: int) -> str:
        """An endpoint for the callers of this instance."""
        server = await asyncio.start_server(functools.partial(self.serve, instance), "127.0.0.1", 0)
        return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"

    def end_faults(self) -> None:
        self.rate = 0
        self.stubborn.clear()

    def close_idle(self) -> None:
        """Closes the connections that wait for another call."""
        for peer in self.idle:
            peer.close()

    async def serve(self, instance: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.open[instance] += 1
        # The loop itself holds no task that waits for a stream: it could be collected as garbage.
        self.serving.add(asyncio.current_task())
        try:
            with contextlib.suppress(*GONE):
                while await self.take(instance, peer):
                    pass
        finally:
            self.open[instance] -= 1
            self.serving.discard(asyncio.current_task())
            peer.close()

    async def take(self, instance: int, peer: Peer) -> bool:
        """One call; whether the connection takes another one."""
        self.idle.add(peer)
        try:
            head = await peer.head()
        finally:
            self.idle.discard(peer)
        path, _, query = head.first[1].partition("?")
        names = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        name, key = operation(head, names), urllib.parse.unquote(path).split("/", 2)[-1]
        fault = self.draw(f"{name} {key} {names.get('partNumber')}")
        call = Call(instance, time.monotonic(), name, key, fault, "X-Amz-Signature" in names)
        number = number_of(head)
        self.calls[number].append(call)
        if number:
            self.numbers[key.removeprefix("incoming/")] = number
        try:
            return await self.carry(peer, head, number, call)
        finally:
            call.ended = time.monotonic()

    def draw(self, what: str) -> str | None:
        if left := self.stubborn.pop(what, 0):
            if left > 1:
                self.stubborn[what] = left - 1
        elif self.random.random() >= self.rate:
            return None
        elif self.random.randrange(STUBBORN) == 0:
            self.stubborn[what] = 2
        return self.random.choice(list(FAULTS))

    async def carry(self, peer: Peer, head: Head, number: int, call: Call) -> bool:
        length = int(head.get("content-length") or 0)
        if call.fault == "reset":
            peer.reset()
            return False
        if call.fault in ("500", "503"):
            async for _ in peer.sized(length):
                pass
            call.status = int(call.fault)
            await peer.send(refusal(call, head.first[0]))
            return True
        if call.fault in ("hang", "late"):
            body = b"".join([piece async for piece in peer.sized(length)])
            with contextlib.suppress(*GONE):
                await peer.until_closed()
            if call.fault == "late":
                self.keep(self.arrive_late(head, body, number, call))
            return False
        if call.fault == "half" and length:
            await self.break_off(peer, head, length)
            return False
        answer = await self.forward(peer, head, length, number, call)
        if call.fault in ("lost", "half"):
            peer.reset()
            return False
        raw = encoded(answer, head.first[0])
        if call.fault == "cut":
            await peer.send(raw[: len(raw) // 2])
            peer.reset()
            return False
        await peer.send(raw)
        return True

    def keep(self, work) -> None:
        task = asyncio.create_task(work)
        self.late.add(task)
        task.add_done_callback(self.late.discard)

    async def arrive_late(self, head: Head, body: bytes, number: int, call: Call) -> None:
        await asyncio.sleep(self.random.uniform(0, LATE))
        store = await Peer.connect(*self.store)
        call.arrived = time.monotonic()
        with contextlib.suppress(*GONE):
            await store.send(head.replaced("connection", "close").encoded() + body)
            self.note(await store.answer(head.first[0]), number, call)
        store.close()

    async def break_off(self, peer: Peer, head: Head, length: int) -> None:
        store = await Peer.connect(*self.store)
        await store.send(head.encoded())
        left = length // 2
        async for piece in peer.sized(length):
            await store.send(piece[:left])
            left -= len(piece)
            if left <= 0:
                break
        store.reset()
        peer.reset()

    async def forward(self, peer: Peer, head: Head, length: int, number: int, call: Call) -> Answer:
        store = await Peer.connect(*self.store)
        try:
            await store.send(head.replaced("connection", "close").encoded())
            async for piece in peer.sized(length):
                await store.send(piece)
            answer = await store.answer(head.first[0])
        finally:
            store.close()
        self.note(answer, number, call)
        return answer

    def note(self, answer: Answer, number: int, call: Call) -> None:
        call.status = answer.status
        found = re.search(rb"<UploadId>(.+?)</UploadId>", answer.body)
        if call.operation == "CreateMultipartUpload" and found:
            self.begun[found[1].decode()] = (number, call)


def number_of(head: Head) -> int:
    trace = head.get("traceparent")
    return int(trace.split("-")[1], 16) if trace else 0


def refusal(call: Call, method: str) -> bytes:
    body = ERROR.format("InternalError" if call.fault == "500" else "SlowDown").encode()
    fields = [("content-type", "application/xml"), ("content-length", str(len(body)))]
    head = Head(["HTTP/1.1", call.fault, "Injected"], fields)
    return head.encoded() + (b"" if method == "HEAD" else body)


def encoded(answer: Answer, method: str) -> bytes:
    """The answer for a connection that stays open."""
    hop = ("connection", "transfer-encoding", "keep-alive")
    head = Head(["HTTP/1.1", str(answer.status), "-"], [field for field in answer.head.fields if field[0] not in hop])
    if method != "HEAD" and answer.status not in (204, 304):
        head = head.replaced("content-length", str(len(answer.body)))
    return head.encoded() + answer.body
