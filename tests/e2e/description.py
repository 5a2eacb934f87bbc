"""The API's description against the real binary: a validator reads it, then schemathesis asks what it promises."""

import contextlib
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import urllib.request

from httpx_client import BINARY
from openapi_spec_validator import validate

HERE = pathlib.Path(__file__).resolve().parent
KEY = "a-key-of-the-tests"


@contextlib.contextmanager
def service():
    """The address of a service that wants a key, so that it shows that its routes ask for one; and a folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "DATA_DIR": f"{folder}/data", "PORT": "0", "API_KEYS": KEY}
        environment["RUST_LOG"] = "warn"
        server = subprocess.Popen([os.path.abspath(BINARY)], env=environment, stdout=subprocess.PIPE, text=True)
        try:
            yield re.match(r"image-store listens on (http://\S+),", server.stdout.readline()).group(1), folder
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=60)


def schemathesis(url: str, folder: str) -> int:
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    arguments = ["--config-file", HERE / "schemathesis.toml", "run", url, "--header", f"Authorization: Bearer {KEY}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    return subprocess.run([program, *arguments], cwd=folder, env=environment).returncode


def main() -> int:
    with service() as (base, folder):
        url = f"{base}/openapi.json"
        with urllib.request.urlopen(url) as answer:
            validate(json.load(answer))
        print("the description is valid OpenAPI")
        return schemathesis(url, folder)


if __name__ == "__main__":
    sys.exit(main())
