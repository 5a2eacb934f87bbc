"""Lints /openapi.json, generates a TypeScript and a Python client from it, and uses both."""

import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import urllib.request

from service import ROOT, service

SOURCES = pathlib.Path(__file__).resolve().parent / "generated_clients"
PYTHON = pathlib.Path(sys.executable)


def run(*arguments: str | pathlib.Path, **options) -> None:
    print("$", *arguments, flush=True)
    subprocess.run(arguments, check=True, **options)


def typescript(folder: pathlib.Path) -> None:
    run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    programs = folder / "node_modules/.bin"
    run(programs / "redocly", "lint", "openapi.json", "--config=redocly.yaml", cwd=folder)
    run(programs / "openapi-typescript", "openapi.json", "--output=api.d.ts", cwd=folder)
    run(programs / "tsc", "--strict", "--noEmit", "--target", "es2022", "usage.ts", cwd=folder)


def python(folder: pathlib.Path, url: str) -> None:
    client = folder / "client"
    # It formats the client with ruff, which is beside it.
    environment = {**os.environ, "PATH": f"{PYTHON.parent}:{os.environ['PATH']}"}
    generator = PYTHON.parent / "openapi-python-client"
    generated = subprocess.run(
        [generator, "generate", "--path=openapi.json", f"--output-path={client}"],
        check=True,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    check_warnings(generated.stdout)
    image = ROOT / "tests/fixtures/plain.png"
    run(PYTHON, "usage.py", url, image, cwd=folder, env={**os.environ, "PYTHONPATH": str(client)})


def check_warnings(output: str) -> None:
    """The generator knows no raw bodies of the type `image/*`. It must drop nothing else."""
    warnings = re.findall(r"^WARNING parsing (.+)\n+(.+)", output, re.MULTILINE)
    others = [warning for warning in warnings if not warning[1].startswith("Unsupported content type image/")]
    assert not others, others


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as temporary,
        service(DATA_DIR=f"{temporary}/data", RUST_LOG="warn") as url,
    ):
        folder = pathlib.Path(shutil.copytree(SOURCES, f"{temporary}/clients"))
        urllib.request.urlretrieve(f"{url}/openapi.json", folder / "openapi.json")
        typescript(folder)
        python(folder, url)
    print("generated clients work")


if __name__ == "__main__":
    main()
