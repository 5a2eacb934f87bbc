"""Runs the fenced blocks of README.md and docs/*.md.

The language of a block, and the words after it, which renderers ignore, say what is done with it:

- `sh`, `bash`, `python`, `js`: run, in the order of the page, in one shell for each page. Addresses are replaced:
  `http://127.0.0.1:8080` is a service without API keys, and `https://images.example.com` one that requires `$KEY`. curl fails
  for error statuses. In `js`, `input.files[0]` is an image.
- `sh check` and so on: only the syntax is checked, because the block needs an account, a container engine or root.
- `json response`: the block before must have printed JSON with the same names.
- `json`, `yaml`: parsed.
- `text`: nothing.

With `file=PATH`, the block must be equal to that file, whatever its language.

documents.sh provides SeaweedFS with a bucket `my-bucket`.
"""

import dataclasses
import json
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile
import textwrap

import yaml
from service import BINARY, ROOT, service

KEY = "a-key-of-the-documents"
# The settings of SeaweedFS. The blocks have them, and the two services do not: they use the embedded S3.
STORE = {name: os.environ.pop(name) for name in list(os.environ) if name.startswith(("AWS_", "S3_"))}
FENCE = re.compile(r"^(?P<indent> *)```(?P<info>\w.*)\n(?P<code>(?:.*\n)*?)(?P=indent)```$", re.MULTILINE)
# Each runs a file of its language, and checks the syntax of one.
RUN = {"sh": None, "bash": None, "python": "python3", "js": "node"}
CHECK = {
    "sh": ["bash", "-n"],
    "bash": ["bash", "-n"],
    "python": ["python3", "-m", "py_compile"],
    "js": ["node", "--check"],
}
JS_PRELUDE = """
import { readFileSync } from "node:fs";
const input = { files: [new File([readFileSync("tests/fixtures/plain.png")], "plain.png", { type: "image/png" })] };
"""


@dataclasses.dataclass
class Block:
    page: str
    line: int
    language: str
    words: list[str]
    code: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: pathlib.Path) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        language, *words = match["info"].split()
        line = text.count("\n", 0, match.start()) + 2
        found.append(Block(str(page.relative_to(ROOT)), line, language, words, textwrap.dedent(match["code"])))
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a block has no language or no end"
    return found


def check(block: Block, folder: pathlib.Path) -> None:
    """Checks the words of a block, and its syntax if it is not run."""
    files = [word.removeprefix("file=") for word in block.words if word.startswith("file=")]
    for name in files:
        assert block.code == (ROOT / name).read_text(), f"{block} differs from {name}"
    if block.language == "json":
        json.loads(block.code)
    elif block.language == "yaml":
        list(yaml.safe_load_all(block.code))
    elif block.language in CHECK and "check" in block.words:
        file = folder / ("checked.mjs" if block.language == "js" else "checked")
        file.write_text(block.code)
        subprocess.run([*CHECK[block.language], file], check=True)
    elif block.language not in ("text", "html", "go", *RUN):
        assert files, f"{block}: {block.language} is not known"


def script(block: Block, number: int, folder: pathlib.Path, addresses: dict[str, str]) -> str:
    """Returns the shell code that runs a block, with its output in a file."""
    code = block.code
    for documented, address in addresses.items():
        code = code.replace(documented, address)
    if RUN[block.language]:
        file = folder / f"{number}{'.mjs' if block.language == 'js' else ''}"
        file.write_text(JS_PRELUDE + code if block.language == "js" else code)
        code = f"{RUN[block.language]} {shlex.quote(str(file))}\n"
    return f"echo {shlex.quote(str(block))} >&3\n{{\n{code}}} >{folder}/{number}.out 2>{folder}/{number}.err </dev/null\n"


def run(page: list[Block], folder: pathlib.Path, addresses: dict[str, str]) -> int:
    """Runs the blocks of a page in one shell. Returns their number."""
    runnable = {i: block for i, block in enumerate(page) if block.language in RUN and "check" not in block.words}
    if not runnable:
        return 0
    parts = [script(block, i, folder, addresses) for i, block in runnable.items()]
    program = "set -euo pipefail\nexec 3>&1\n" + "".join(parts)
    work = folder / "work"
    work.mkdir()
    for name in ("tests", "deploy"):
        (work / name).symlink_to(ROOT / name)
    environment = {**os.environ, **STORE, "KEY": KEY, "CURL_HOME": str(folder), "PATH": f"{folder}:{os.environ['PATH']}"}
    shell = subprocess.run(["bash", "-c", program], cwd=work, env=environment, text=True, stdout=subprocess.PIPE)
    if shell.returncode:
        failed = shell.stdout.splitlines()[-1]
        number = next(i for i, block in runnable.items() if str(block) == failed)
        output = "".join((folder / f"{number}.{kind}").read_text() for kind in ("out", "err"))
        sys.exit(f"{failed} failed with status {shell.returncode}:\n{output}")
    for i, block in enumerate(page):
        if block.language == "json" and "response" in block.words:
            answer = json.loads((folder / f"{i - 1}.out").read_text())
            assert answer.keys() == json.loads(block.code).keys(), f"{block}: the response has {list(answer)}"
    return len(runnable)


def main() -> None:
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    if wanted := sys.argv[1:]:
        pages = [page for page in pages if page.name in wanted]
    with tempfile.TemporaryDirectory() as temporary:
        data = pathlib.Path(temporary)
        with (
            service(DATA_DIR=f"{data}/open", RUST_LOG="warn") as open_url,
            service(DATA_DIR=f"{data}/keyed", API_KEYS=KEY, RUST_LOG="warn") as keyed_url,
        ):
            addresses = {"http://127.0.0.1:8080": open_url, "https://images.example.com": keyed_url}
            for page in pages:
                folder = data / page.name
                folder.mkdir()
                (folder / "image-store").symlink_to(BINARY)
                (folder / ".curlrc").write_text("silent\nshow-error\nfail\n")
                found = blocks(page)
                for block in found:
                    check(block, folder)
                count = run(found, folder, addresses)
                print(f"{page.relative_to(ROOT)}: {len(found)} blocks, {count} of them run")


if __name__ == "__main__":
    main()
