#!/usr/bin/env python3
"""Packs a Lambda bootstrap: zip.py <bootstrap> <archive>. Executable in the archive, and the same bytes every time.

Refuses a binary that asks for a newer C library than Lambda's provided.al2023 has: it would fail at its first start.
"""

import re
import sys
import zipfile

AL2023_GLIBC = (2, 34)

bootstrap, archive = sys.argv[1:]
with open(bootstrap, "rb") as file:
    binary = file.read()
versions = {(int(major), int(minor)) for major, minor in re.findall(rb"\0GLIBC_(\d+)\.(\d+)", binary)}
newest = max(versions, default=AL2023_GLIBC)
if newest > AL2023_GLIBC:
    sys.exit(f"{bootstrap} needs glibc {newest[0]}.{newest[1]}, Lambda has 2.34: build on an older system (Debian 12, say)")

entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
entry.external_attr = 0o100755 << 16
entry.create_system = 3
with zipfile.ZipFile(archive, "w") as packed:
    packed.writestr(entry, binary, zipfile.ZIP_DEFLATED, 9)
with open(archive, "rb") as file:
    print(f"{archive}: {len(file.read()) / 2**20:.2f} MiB, glibc {newest[0]}.{newest[1]}")
