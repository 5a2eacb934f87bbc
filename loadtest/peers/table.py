"""Prints the measurements of peers.sh as Markdown tables.

Reads lines from standard input: group, peer, requests, seconds, CPU seconds, peak memory in MiB. The groups are the
sizes of the images, and `plan`. With CHECK=1 it fails if image-store takes more than CPU_RATIO times the CPU of nginx for
the largest size, or more than WALL_RATIO times the time.
"""

import os
import sys
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


def check(group: str, peers: dict) -> None:
    ours, nginx = peers["image-store"], peers["nginx"]
    cpu, wall = ours.cpu / nginx.cpu, nginx.rate / ours.rate
    print(f"\n{group}, image-store compared with nginx: {cpu:.2f} times the CPU time, {wall:.2f} times the time")
    limits = (float(os.environ.get(name, default)) for name, default in (("CPU_RATIO", "2.0"), ("WALL_RATIO", "1.1")))
    if os.environ.get("CHECK") and any(ratio > limit for ratio, limit in zip((cpu, wall), limits)):
        sys.exit("FAILED: a ratio exceeds its limit")


def main() -> None:
    groups = read(sys.stdin)
    plans = {group: groups.pop(group) for group in (PLAN,) if group in groups}
    for name, columns in (("upload", groups), ("plan", plans)):
        if columns:
            print(f"\n{UNITS.format(name)}\n\n{table(columns)}")
    for group, peers in list(groups.items())[-1:]:
        if {"image-store", "nginx"} <= peers.keys():
            check(group, peers)


main()
