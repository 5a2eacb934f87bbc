"""What each upload is, and what happened to it."""

import hashlib
import pathlib
import random
import time
from dataclasses import dataclass, field

MIB = 1 << 20
PART = 5 * MIB
FIXTURES = pathlib.Path(__file__).parents[2] / "tests/fixtures"
MARK = b"upload %012d;"
POOL = random.Random(0).randbytes(2 * MIB)
TEXT = b"<html><p>No image.</p>"

# What clients do, and how often. Through the service:
STREAMED = {
    "keep": 50,
    "delete": 10,
    "leave inside": 10,
    "leave at the end": 12,
    "text": 6,
    "short": 6,
    "two files": 6,
}
# Straight to the store:
DIRECT = {
    "keep": 25,
    "delete": 8,
    "complete twice": 12,
    "abort while completing": 12,
    "delete while completing": 10,
    "abort": 5,
    "abandon": 6,
    "abandon, sent": 6,
    "leave inside": 4,
    "leave while completing": 4,
    "text": 4,
    "short": 4,
    "long": 4,
    "other sha256": 4,
}
WAYS = {"form": 25, "raw": 15, "chunked": 10, "direct": 50}
LIES = ("text", "short", "long", "two files", "other sha256")
LARGE = (PART - 1, PART, PART + 1, 2 * PART - 1, 2 * PART, 2 * PART + 1, 12 * MIB + 7)


@dataclass
class Unanswered:
    """A request whose connection ended, or whose time was over, without an answer."""

    what: str
    instance: int
    began: float
    ended: float


@dataclass
class Upload:
    number: int
    way: str
    act: str
    size: int
    extension: str
    sha256: str = ""
    key: str | None = None
    # Success was answered to it, or to its complete.
    stored: bool = False
    # Success was answered to its delete or its abort.
    withdrawn: bool = False
    # An error was answered that ends it.
    refused: bool = False
    # Its client left without waiting for the answer: where.
    left: str | None = None
    # Requests that no answer decided while the faults lasted; each is asked once more afterwards.
    open: list[str] = field(default_factory=list)
    # What must never happen, as its client saw it.
    wrong: list[str] = field(default_factory=list)
    links: dict = field(default_factory=dict)
    unanswered: list[Unanswered] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)

    def note(self, what: str) -> None:
        self.events.append((time.monotonic(), what))

    @property
    def content_type(self) -> str:
        return {"png": "image/png", "jpg": "image/jpeg"}[self.extension]

    @property
    def is_lie(self) -> bool:
        return self.act in LIES

    def content(self) -> bytes:
        """Bytes that no other upload has."""
        start = TEXT if self.act == "text" else (FIXTURES / f"plain.{self.extension}").read_bytes()
        start += MARK % self.number
        offset = self.number * 4099 % MIB
        filler = POOL[offset : offset + MIB] * (self.size // MIB + 1)
        return start + filler[: self.size - len(start)]

    def describe(self) -> None:
        self.sha256 = hashlib.sha256(self.content()).hexdigest()


def draw(number: int, seed: str) -> tuple[Upload, random.Random]:
    """An upload, and its client's dice."""
    dice = random.Random(f"{seed}-{number}")
    pick = lambda weights: dice.choices(list(weights), list(weights.values()))[0]
    way = pick(WAYS)
    act = pick(DIRECT if way == "direct" else STREAMED)
    if act == "two files" and way != "form":
        act = "keep"
    size = dice.choice(LARGE) if dice.random() < 0.1 else dice.randrange(800, 200_000)
    return Upload(number, way, act, size, dice.choice(("png", "jpg"))), dice


def number_in(content: bytes) -> int | None:
    """The upload that these bytes were sent by."""
    at = content[:4096].find(MARK[:7])
    return int(content[at + 7 : at + 19]) if at >= 0 else None
