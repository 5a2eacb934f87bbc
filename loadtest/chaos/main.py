"""Uploads before a store that fails, to a service that is stopped and killed; then everything is accounted for.

The binary is BIN; the store is SeaweedFS, at STORE (its S3 gateway) and FILER, with a bucket BUCKET; logs go to WORK.
UPLOADS, CLIENTS, SEED and FAULTS (the share of calls that fail) can be set. The seed fixes what each client does and what
the dice say; which call they are thrown for depends on the machine.
"""

import asyncio
import collections
import hashlib
import itertools
import os
import pathlib
import random
import subprocess
import sys
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterable

from account import Account
from clients import KEYS, Client, run_upload
from proxy import STUBBORN, Proxy
from services import Instance, disturb, watch
from store import Store

BINARY, BUCKET, WORK = os.environ["BIN"], os.environ["BUCKET"], pathlib.Path(os.environ["WORK"])
UPLOADS = int(os.environ.get("UPLOADS", 10_000))
CLIENTS = int(os.environ.get("CLIENTS", 32))
SEED = os.environ.get("SEED") or str(random.randrange(1_000_000))
SHARE = float(os.environ.get("FAULTS", 0.1))
# How long a process runs, on average; in seconds.
PAUSE = 8.0
BUDGET_MIB = 64
LIMIT_MIB = BUDGET_MIB + 64
SETTINGS = {
    "MEMORY_BUDGET": f"{BUDGET_MIB}MiB",
    "S3_BUCKET": BUCKET,
    "S3_FORCE_PATH_STYLE": "true",
    "S3_TIMEOUT": "2s",
    "COMPLETE_WAIT": "3s",
    "SHUTDOWN_TIMEOUT": "3s",
    "SPILL_DIR": str(WORK),
    "TOKEN_SECRET": "chaos-secret-of-at-least-32-bytes!",
    "API_KEYS_FILE": str(WORK / "keys"),
    "NO_COLOR": "1",
}
# What differs between the two: whether plans of small files are in parts, and whether the store checks checksums.
VARIANTS = (
    {"DIRECT_PUT_MAX": "100KiB", "S3_CHECKSUM": "crc64nvme"},
    {"DIRECT_PUT_MAX": "11MiB", "S3_CHECKSUM": "none"},
)
IDLE = ("image_store_uploads_open", "image_store_parts_in_flight", "image_store_budget_used_bytes")


async def main() -> int:
    print(f"SEED={SEED} UPLOADS={UPLOADS} CLIENTS={CLIENTS}")
    write_keys()
    # A stubborn fault makes three of one.
    proxy = Proxy(os.environ["STORE"], SHARE / (1 + 2 / STUBBORN), SEED)
    instances = [await launch(number, variant, proxy) for number, variant in enumerate(VARIANTS)]
    idle = [await idle_descriptors(instance, proxy) for instance in instances]
    watching = asyncio.create_task(watch(instances))
    began = time.monotonic()
    clients = await upload_all(instances)
    took = time.monotonic() - began

    proxy.end_faults()
    for client in clients:
        await client.decide()
    account = Account({client.upload.number: client.upload for client in clients}, proxy, instances)
    await settle(account, idle)
    watching.cancel()
    check(account)
    describe(account, took)
    return 1 if account.failures() else 0


def write_keys() -> None:
    hashed = {scope: hashlib.sha256(key.encode()).hexdigest() for scope, key in KEYS.items()}
    (WORK / "keys").write_text("".join(f"may-{scope} {sha256} {scope}\n" for scope, sha256 in hashed.items()))


async def launch(number: int, variant: dict[str, str], proxy: Proxy) -> Instance:
    settings = SETTINGS | variant | {"AWS_ENDPOINT_URL_S3": await proxy.listen(number)}
    instance = Instance(number, BINARY, {**os.environ, **settings}, WORK / f"service-{number}.log")
    await instance.start()
    return instance


async def upload_all(instances: list[Instance]) -> list[Client]:
    numbers = iter(range(1, UPLOADS + 1))
    done = []

    async def work() -> None:
        for number in numbers:
            done.append(await run_upload(number, SEED, instances))
            if len(done) % 500 == 0:
                print(f"{len(done)} uploads", flush=True)

    over = asyncio.Event()
    disturbing = [asyncio.create_task(disturb(instance, SEED, PAUSE, over)) for instance in instances]
    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    over.set()
    await asyncio.gather(*disturbing)
    return done


async def settle(account: Account, idle: list[int]) -> None:
    """Waits until nothing is under way any more, and ends the processes in order."""
    while account.proxy.late:
        await asyncio.wait(account.proxy.late)
    for instance, descriptors in zip(account.instances, idle):
        if not await within_a_minute(lambda: is_idle(instance, account.proxy, descriptors)):
            values = await asyncio.to_thread(gauges, instance)
            now = instance.processes[-1].descriptors()
            account.add("process", 0, f"not idle: {now} descriptors, {descriptors} before; {values}")
    for instance in account.instances:
        await instance.end(kill=False)


async def idle_descriptors(instance: Instance, proxy: Proxy) -> int:
    """How many a process has open that has done nothing."""
    if not await within_a_minute(lambda: is_idle(instance, proxy, sys.maxsize)):
        raise RuntimeError("a fresh process is not idle")
    return instance.processes[-1].descriptors()


async def is_idle(instance: Instance, proxy: Proxy, descriptors: int) -> bool:
    proxy.close_idle()
    values = await asyncio.to_thread(gauges, instance)
    at_rest = not any(values.values()) and not proxy.open[instance.number]
    return at_rest and instance.processes[-1].descriptors() <= descriptors


async def within_a_minute(holds: Callable[[], Awaitable[bool]]) -> bool:
    for _ in range(600):
        if await holds():
            return True
        await asyncio.sleep(0.1)
    return False


def gauges(instance: Instance) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{instance.port}/metrics") as answer:
        lines = answer.read().decode().splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line.startswith(IDLE))}


def check(account: Account) -> None:
    store = Store(os.environ["FILER"], BUCKET)
    account.clients()
    account.images(store)
    account.unfinished(store, "before")
    account.unverified(store, "before")
    sweep()
    account.unfinished(store, "after")
    account.unverified(store, "after")
    account.processes(LIMIT_MIB)


def sweep() -> None:
    # A sweep keeps markers for as long as the URLs of plans may be used.
    settings = SETTINGS | {"AWS_ENDPOINT_URL_S3": os.environ["STORE"], "UPLOAD_URL_TTL": "1s"}
    subprocess.run([BINARY, "sweep", "--older-than", "0s"], env={**os.environ, **settings}, check=True)


def tally(values: Iterable[str]) -> str:
    return ", ".join(f"{count} {value}" for value, count in collections.Counter(values).most_common())


def describe(account: Account, took: float) -> None:
    uploads, calls = account.uploads.values(), list(itertools.chain(*account.proxy.calls.values()))
    faults = collections.Counter(call.fault for call in calls if call.fault)
    print(f"{len(uploads)} uploads in {took:.0f} s: {tally(upload.way for upload in uploads)}")
    print(f"clients: {tally(upload.act for upload in uploads)}")
    stored, withdrawn = (sum(getattr(upload, what) for upload in uploads) for what in ("stored", "withdrawn"))
    print(f"{stored} answered with success, {withdrawn} deleted or aborted")
    print(f"{len(calls)} calls to S3, {sum(faults.values()) / len(calls):.1%} failed: {tally(faults.elements())}")
    processes = [process for _, process in account.all_processes()]
    kills, peak = sum(process.killed for process in processes), max(process.peak for process in processes) >> 10
    print(f"{len(processes)} processes, {kills} ended by kill -9; peak resident memory {peak} MiB of {LIMIT_MIB}")
    print(account.report())
    for finding in account.failures():
        print(f"FAILED: {finding.category}: upload {finding.number}: {finding.what}")
        if finding.number == 0:
            print(account.probe_history(finding.what))
    for number in sorted({finding.number for finding in account.failures() if finding.number}):
        print(account.history(number))


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
