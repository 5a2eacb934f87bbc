"""HTTP/1.1 on asyncio's streams: as much of it as the clients and the proxy need, who break it off wherever they like."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass

PIECE = 64 << 10
# What reading and writing raise where the other side goes away, or does not come in time.
GONE = (OSError, EOFError)


@dataclass
class Head:
    """A first line, in words, and the fields below it, their names in lower case."""

    first: list[str]
    fields: list[tuple[str, str]]

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.fields if key == name), None)

    def replaced(self, name: str, value: str) -> "Head":
        return Head(self.first, [field for field in self.fields if field[0] != name] + [(name, value)])

    def encoded(self) -> bytes:
        lines = [" ".join(self.first), *(f"{name}: {value}" for name, value in self.fields)]
        return "\r\n".join([*lines, "", ""]).encode("latin-1")


@dataclass
class Answer:
    status: int
    head: Head
    body: bytes


class Peer:
    """The other end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def connect(cls, host: str, port: int) -> "Peer":
        return cls(*await asyncio.open_connection(host, port))

    async def send(self, data: bytes) -> None:
        for start in range(0, len(data), PIECE):
            self.writer.write(data[start : start + PIECE])
            await self.writer.drain()

    async def head(self) -> Head:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")
        fields = [(name.strip().lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Head(first.split(" ", 2), fields)

    async def sized(self, length: int) -> AsyncIterator[bytes]:
        """A body of so many bytes, as it comes."""
        while length:
            piece = await self.reader.read(min(length, PIECE))
            if not piece:
                raise EOFError("the body ends early")
            length -= len(piece)
            yield piece

    async def answer(self, method: str) -> Answer:
        """The final answer to a request, whole."""
        head = await self.head()
        while head.first[1] == "100":
            head = await self.head()
        status, length = int(head.first[1]), head.get("content-length")
        if method == "HEAD" or status in (204, 304):
            body = b""
        elif head.get("transfer-encoding"):
            body = b"".join([piece async for piece in self.chunks()])
        elif length is not None:
            body = await self.reader.readexactly(int(length))
        else:
            body = await self.reader.read()
        return Answer(status, head, body)

    async def chunks(self) -> AsyncIterator[bytes]:
        while size := int((await self.reader.readline()).split(b";")[0] or b"0", 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    async def until_closed(self) -> None:
        """Waits until the other side has closed the connection; it must not send anything before that."""
        await self.reader.read(1)

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Closes with a reset, and throws away what was not sent yet."""
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()
