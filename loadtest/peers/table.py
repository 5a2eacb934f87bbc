"""Prints the measurements of peers.sh as Markdown tables.

Reads lines from standard input: group, peer, requests, seconds, CPU seconds, peak memory in MiB. The groups are the
sizes of the images, and `plan`. With CHECK=1 it fails if image-store exceeds one of its TARGETS.
"""

import os
import sys
from pathlib import Path
from statistics import median
from typing import NamedTuple

LABELS = {
    "none": "no hop",
    "nginx": "nginx, which passes the same bytes on as a PUT, unparsed",
    "haproxy": "HAProxy, the same with `splice`",
    "busboy": "Node, busboy and @aws-sdk/lib-storage",
    "tus": "tus-node-server with its S3 store",
    "python": "the old service, FastAPI and boto3, 2 workers",
    "image-store": "**image-store**",
    "companion": "Companion, `GET /s3/params`",
    "params": "**image-store**, `GET /s3/params`",
    "uploads": "**image-store**, `POST /uploads`",
}
PLAN = "plan"
# By size: the most CPU time and wall time that image-store may take, as multiples of nginx's. CRC64NVME is faster with AVX-512.
HAS_AVX512 = "avx512vl" in Path("/proc/cpuinfo").read_text()
TARGETS = {"64KiB": (5.0, None), "1MiB": (1.7, None), "1GiB": (2.0 if HAS_AVX512 else 2.3, 1.5)}
UNITS = "CPU time for each {0} · {0}s a second · peak memory"


class Result(NamedTuple):
    """The medians of a peer's runs."""

    cpu: float
    rate: float
    peak: int


def read(lines) -> dict:
    """Returns the results by group and peer, in the order in which they were measured."""
    runs: dict = {}
    for line in lines:
        group, peer, requests, seconds, cpu, peak = line.split()
        count = int(requests)
        runs.setdefault(group, {}).setdefault(peer, []).append((float(cpu) / count, count / float(seconds), int(peak)))
    return {group: {peer: result(rows) for peer, rows in peers.items()} for group, peers in runs.items()}


def result(rows) -> Result:
    cpu, rate, peak = zip(*rows)
    return Result(median(cpu), median(rate), max(peak))


def cell(result: Result) -> str:
    rate = f"{result.rate:,.0f}" if result.rate >= 10 else f"{result.rate:.2g}"
    if result.peak == 0:
        return f"– · {rate}/s · –"
    cpu = f"{result.cpu:.2f} s" if result.cpu >= 0.1 else f"{result.cpu * 1e6:,.0f} µs"
    return f"{cpu} · {rate}/s · {result.peak:,} MiB"


def heading(group: str) -> str:
    return "a plan" if group == PLAN else f"{group[:-3]} {group[-3:]}"


def table(columns: dict) -> str:
    """Returns a table with a row for each peer and a column for each group."""
    lines = ["| | " + " | ".join(map(heading, columns)) + " |", "|---" * (1 + len(columns)) + "|"]
    for peer in dict.fromkeys(peer for peers in columns.values() for peer in peers):
        cells = (cell(peers[peer]) if peer in peers else "" for peers in columns.values())
        lines.append(f"| {LABELS[peer]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def check(group: str, peers: dict) -> bool:
    """Prints how image-store compares with nginx. Returns whether it meets its targets."""
    ours, nginx = peers["image-store"], peers["nginx"]
    ratios = (ours.cpu / nginx.cpu, nginx.rate / ours.rate)
    targets = TARGETS.get(group, (None, None))
    texts = (f"{ratio:.2f}" + (f" (target {target})" if target else "") for ratio, target in zip(ratios, targets))
    cpu, wall = texts
    print(f"{group}, image-store compared with nginx: {cpu} times the CPU time, {wall} times the time")
    return all(target is None or ratio <= target for ratio, target in zip(ratios, targets))


def main() -> None:
    groups = read(sys.stdin)
    plans = {group: groups.pop(group) for group in (PLAN,) if group in groups}
    for name, columns in (("upload", groups), ("plan", plans)):
        if columns:
            print(f"\n{UNITS.format(name)}\n\n{table(columns)}")
    print()
    met = [check(group, peers) for group, peers in groups.items() if {"image-store", "nginx"} <= peers.keys()]
    if os.environ.get("CHECK") and not (met and all(met)):
        sys.exit("FAILED: a target was missed" if met else "FAILED: nothing was compared with nginx")


main()
