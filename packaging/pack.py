#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Packs a directory into a .tar.gz and writes its checksum beside it: pack.py DIRECTORY ARCHIVE

The same files give the same bytes: sorted, owned by root, dated SOURCE_DATE_EPOCH.
"""

import gzip
import hashlib
import os
import sys
import tarfile
from pathlib import Path

directory, archive = map(Path, sys.argv[1:])


def normal(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    entry.mtime = int(os.environ["SOURCE_DATE_EPOCH"])
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry


with open(archive, "wb") as file, gzip.GzipFile("", "wb", mtime=0, fileobj=file) as compressed:
    with tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for path in [directory, *sorted(directory.rglob("*"))]:
            tar.add(path, path.relative_to(directory.parent), recursive=False, filter=normal)

checksum = hashlib.sha256(archive.read_bytes()).hexdigest()
archive.with_name(archive.name + ".sha256").write_text(f"{checksum}  {archive.name}\n", newline="\n")
