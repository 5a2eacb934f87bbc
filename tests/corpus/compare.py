#!/usr/bin/env python3
"""Uploads every file of a corpus and compares the service's answer with what Pillow detects.

    python3 -m venv venv && venv/bin/pip install pillow pillow-heif
    venv/bin/python tests/corpus/compare.py target/release/image-store              # the test images of Pillow
    venv/bin/python tests/corpus/compare.py target/release/image-store FOLDER...    # other images

Without a folder, it downloads Pillow's source package with pip (45 MB). Its Tests/images has over a thousand files, some of
them broken. The output is meant for people and is not part of `make test`, because decoders and their versions differ. The
exit status is 1 if there is a difference that the design of the service does not explain. The service reads headers and
decodes nothing, so it accepts images that are broken after their header.
"""

import argparse
import collections
import json
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from PIL import ExifTags, Image, ImageFile

FORMATS = "jpg,png,gif,bmp,webp,avif,heic,tiff"
# Pillow's names that differ from the service's. An MPO is a JPEG followed by more JPEGs.
NAMES = {"MPO": "jpeg", "HEIF": "heic"}
# The corpus contains compressed images that are meant to exhaust memory.
Image.MAX_IMAGE_PIXELS = 1 << 28


def pillows_images(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "pillow", "--dest", folder, "pillow"],
        check=True,
    )
    (package,) = folder.glob("pillow-*.tar.gz")
    with tarfile.open(package) as archive:
        archive.extractall(folder, filter="data")
    (images,) = folder.glob("pillow-*/Tests/images")
    return images


class Service:
    """The binary with an embedded S3 in a temporary folder, and every format allowed."""

    def __init__(self, binary: str, folder: str):
        settings = {"DATA_DIR": folder, "PORT": "0", "ALLOWED_FORMATS": FORMATS, "RUST_LOG": "error"}
        self.process = subprocess.Popen([binary], env={**os.environ, **settings}, stdout=subprocess.PIPE, text=True)
        self.url = re.search(r"http://[\d.:]+", self.process.stdout.readline()).group()

    def upload(self, data: bytes) -> dict:
        """Returns the service's answer, even if it is an error. The file has no name, so that only its bytes count."""
        request = urllib.request.Request(f"{self.url}/upload-image", data=data, headers={"Content-Type": "image/any"})
        try:
            with urllib.request.urlopen(request) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def stop(self):
        self.process.terminate()
        self.process.wait()


def seen_by_pillow(path: Path) -> tuple[str, int, int] | None:
    """Returns the format and the dimensions of an image that Pillow opens; `None` for anything else."""
    try:
        with Image.open(path) as image:
            name = NAMES.get(image.format, image.format.lower())
            return name, *image.size
    except Exception:
        return None


def decodes(path: Path) -> bool:
    try:
        with Image.open(path) as image:
            image.load()
            return True
    except Exception:
        return False


def is_rotated(path: Path) -> bool:
    """Returns whether the image is rotated by 90 degrees. Pillow reports every kind of rotation as an Orientation."""
    with Image.open(path) as image:
        return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)


def seen_by_service(answer: dict) -> tuple[str, int, int] | None:
    if "s3_key" not in answer:
        return None
    return answer["content_type"].removeprefix("image/"), answer["width"], answer["height"]


def compare(service: Service, path: Path) -> tuple[str, str]:
    """Returns the outcome for a file, and a description of it."""
    answer = service.upload(path.read_bytes())
    pillow, ours = seen_by_pillow(path), seen_by_service(answer)
    description = f"Pillow {pillow}, the service {ours or {key: answer[key] for key in answer if key != 'accepted'}}"
    if pillow == ours or (pillow and pillow[0] not in set(FORMATS.replace("jpg", "jpeg").split(",")) and not ours):
        return "agree", description
    if answer.get("code") == "too_many_pixels" or (pillow is None and ours and not decodes(path)):
        return "on purpose", description
    # The service applies a rotation that is part of the image (HEIF), but not one in metadata (Orientation in TIFF and
    # Exif). Pillow does the opposite.
    if pillow and is_rotated(path) and (pillow[0], pillow[2], pillow[1]) == ours:
        return "on purpose", description
    if ours is None and not decodes(path):
        return "both reject", description
    return "differ", description


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("binary")
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--verbose", action="store_true", help="also print differences that are explained")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        import pillow_heif

        pillow_heif.register_heif_opener()
    except ImportError:
        print("pillow-heif is not installed, so HEICs will differ", file=sys.stderr)
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        folders = options.folders or [pillows_images(Path(folder))]
        service = Service(options.binary, os.path.join(folder, "data"))
        try:
            for path in sorted(path for each in folders for path in each.rglob("*") if path.is_file()):
                kind, description = compare(service, path)
                counts[kind] += 1
                if kind == "differ" or (options.verbose and kind != "agree"):
                    print(f"{kind}: {path.name}: {description}")
        finally:
            service.stop()
    print(", ".join(f"{count} {kind}" for kind, count in counts.most_common()))
    return 1 if counts["differ"] else 0


if __name__ == "__main__":
    sys.exit(main())
