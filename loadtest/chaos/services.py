"""The service's processes: started, told to stop, killed, and watched meanwhile."""

import asyncio
import contextlib
import pathlib
import random
import signal
import socket
import time
from dataclasses import dataclass


@dataclass
class Process:
    """One process of an instance, from its start to its end."""

    child: asyncio.subprocess.Process
    began: float
    # Peak resident memory in KiB.
    peak: int = 0
    told: float | None = None
    ended: float | None = None
    killed: bool = False
    status: int | None = None

    def look(self) -> None:
        with contextlib.suppress(OSError, StopIteration):
            lines = pathlib.Path(f"/proc/{self.child.pid}/status").read_text().splitlines()
            self.peak = int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

    def descriptors(self) -> int:
        return len(list(pathlib.Path(f"/proc/{self.child.pid}/fd").iterdir()))


class Instance:
    """A place where the service runs. Its processes come and go; its port stays."""

    def __init__(self, number: int, binary: str, environment: dict[str, str], log: pathlib.Path) -> None:
        self.number = number
        self.port = free_port()
        self.binary, self.log = binary, log
        self.environment = environment | {"PORT": str(self.port)}
        self.processes: list[Process] = []

    async def start(self) -> None:
        with self.log.open("ab") as log:
            child = await asyncio.create_subprocess_exec(
                self.binary, env=self.environment, stdout=asyncio.subprocess.PIPE, stderr=log
            )
        process = Process(child, time.monotonic())
        if b"listens on" not in await asyncio.wait_for(child.stdout.readline(), 30):
            raise RuntimeError(f"the service does not start: see {self.log}")
        self.processes.append(process)

    async def end(self, kill: bool) -> None:
        process = self.processes[-1]
        process.look()
        process.killed, process.told = kill, time.monotonic()
        process.child.send_signal(signal.SIGKILL if kill else signal.SIGTERM)
        process.status = await asyncio.wait_for(process.child.wait(), 60)
        process.ended = time.monotonic()

    def at(self, moment: float) -> Process | None:
        """The process that ran then."""
        return next((process for process in reversed(self.processes) if process.began <= moment), None)


async def disturb(instance: Instance, seed: str, pause: float, over: asyncio.Event) -> None:
    """Ends one process after another, by SIGTERM or kill -9, and starts the next; `pause` is how long one runs on average."""
    dice = random.Random(f"{seed}-{instance.number}")
    while not over.is_set():
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), dice.expovariate(1 / pause))
            return
        await instance.end(kill=dice.random() < 0.5)
        await instance.start()


async def watch(instances: list[Instance]) -> None:
    """Keeps every process's peak of memory: after its end nothing says it."""
    while True:
        for instance in instances:
            if instance.processes and instance.processes[-1].ended is None:
                instance.processes[-1].look()
        await asyncio.sleep(0.2)


def free_port() -> int:
    """Below the ports that the system gives to connections: those could be taken while a process restarts."""
    for port in random.sample(range(30_100, 32_700), 100):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise RuntimeError("no free port")
