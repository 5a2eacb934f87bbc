"""Validates /openapi.json of the real binary, then tests the service against it with schemathesis."""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from openapi_spec_validator import validate
from service import service

HERE = pathlib.Path(__file__).resolve().parent
KEY = "a-key-of-the-tests"


def schemathesis(url: str, folder: str) -> int:
    program = pathlib.Path(sys.executable).parent / "schemathesis"
    arguments = ["--config-file", HERE / "schemathesis.toml", "run", url, "--header", f"Authorization: Bearer {KEY}"]
    environment = {**os.environ, "SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(HERE)}
    return subprocess.run([program, *arguments], cwd=folder, env=environment).returncode


def main() -> int:
    # With an API key configured, the description shows which routes require one.
    with (
        tempfile.TemporaryDirectory() as folder,
        service(DATA_DIR=f"{folder}/data", API_KEYS=KEY, RUST_LOG="warn") as base,
    ):
        url = f"{base}/openapi.json"
        with urllib.request.urlopen(url) as answer:
            validate(json.load(answer))
        print("the description is valid OpenAPI")
        return schemathesis(url, folder)


if __name__ == "__main__":
    sys.exit(main())
