"""Runs the binary in BIN for the duration of a `with` block."""

import contextlib
import os
import pathlib
import re
import signal
import subprocess
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[2]
BINARY = os.path.abspath(os.environ.get("BIN", ROOT / "target/release/image-store"))


@contextlib.contextmanager
def service(**settings: str) -> Iterator[str]:
    """Yields the service's address. At the end, the service gets SIGTERM and must exit with status 0."""
    server = subprocess.Popen(
        [BINARY], env={**os.environ, "PORT": "0", **settings}, stdout=subprocess.PIPE, text=True
    )
    try:
        yield re.match(r"image-store listens on (http://[^\s,]+)", server.stdout.readline()).group(1)
    finally:
        server.send_signal(signal.SIGTERM)
        status = server.wait(timeout=60)
    assert status == 0, f"the service exited with status {status}"
