#!/usr/bin/env python3
"""Packs a Lambda bootstrap: zip.py <bootstrap> <archive>. Executable in the archive, and the same bytes every time."""

import sys
import zipfile

bootstrap, archive = sys.argv[1:]
entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
entry.external_attr = 0o100755 << 16
entry.create_system = 3
with open(bootstrap, "rb") as file, zipfile.ZipFile(archive, "w") as packed:
    packed.writestr(entry, file.read(), zipfile.ZIP_DEFLATED, 9)
with open(archive, "rb") as file:
    print(f"{archive}: {len(file.read()) / 2**20:.2f} MiB")
