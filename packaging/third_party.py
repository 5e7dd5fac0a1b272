#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes the licences of all that is linked into the library, and the list of it, into a directory:

    third_party.py TARGET DIRECTORY [ZIGLANG]

TARGET is a target triple; ZIGLANG the directory of the zig that links for it, if it is zig's linker. It fails
where a licence is none of those accepted below, or has no text. SOURCE_DATE_EPOCH is the list's date, or now.
"""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path

ACCEPTED = {
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
}
LICENSE_FILE = re.compile(r"(LICEN[CS]E|COPYING|COPYRIGHT|NOTICE|UNLICENSE)", re.IGNORECASE)


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def accepted(expression):
    """Whether an SPDX expression can be met with the licences of ACCEPTED."""

    def word(match):
        return match[0].lower() if match[0] in ("AND", "OR") else str(match[0] in ACCEPTED)

    # Leaves nothing but True, False, and, or, parentheses.
    return eval(re.sub(r"[\w.+-]+( WITH [\w.-]+)?", word, expression))


def linked_crates(target):
    """The packages whose code is in the library: no build scripts, procedural macros or tests."""
    features = output("packaging/features.sh", target).split()
    tree = output(
        *"cargo tree --locked --edges normal,no-proc-macro --prefix none --format".split(),
        *("{p}", "--target", target, *features),
    )
    wanted = {tuple(line.split()[:2]) for line in tree.splitlines()}
    metadata = json.loads(
        output(*"cargo metadata --locked --format-version 1 --filter-platform".split(), target, *features)
    )
    packages = {p["id"]: p for p in metadata["packages"] if (p["name"], "v" + p["version"]) in wanted}
    assert len(packages) == len(wanted)
    edges = {
        node["id"]: sorted(d["pkg"] for d in node["deps"] if d["pkg"] in packages)
        for node in metadata["resolve"]["nodes"]
        if node["id"] in packages
    }
    return packages, edges, metadata["resolve"]["root"]


def checksums():
    package = r'name = "(.*)"\nversion = "(.*)"\n(?:source = .*\n)?checksum = "(.*)"'
    return {(name, version): sha for name, version, sha in re.findall(package, Path("Cargo.lock").read_text())}


def main(target, directory, ziglang=None):
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    packages, edges, root = linked_crates(target)
    sha256 = checksums()

    texts = {}  # text: whose
    components = {}
    for id, package in sorted(packages.items(), key=lambda item: (item[1]["name"], item[1]["version"])):
        name, version = package["name"], package["version"]
        license = (package["license"] or "").replace("/", " OR ")
        purl = f"pkg:cargo/{name}@{version}"
        components[id] = {
            "type": "library",
            "bom-ref": purl,
            "name": name,
            "version": version,
            "licenses": [{"expression": license}],
            "purl": purl,
        }
        if (name, version) in sha256:
            components[id]["hashes"] = [{"alg": "SHA-256", "content": sha256[name, version]}]
        if package["repository"]:
            components[id]["externalReferences"] = [{"type": "vcs", "url": package["repository"]}]
        if id == root:
            continue
        if not (license and accepted(license)):
            sys.exit(f"{name} {version}: the license is {license or 'missing'}; see ACCEPTED in {sys.argv[0]}")
        files = [f for f in sorted(Path(package["manifest_path"]).parent.iterdir()) if LICENSE_FILE.match(f.name)]
        if not files:
            sys.exit(f"{name} {version}: no text of its license")
        for file in files:
            text = file.read_text(encoding="utf-8").strip().replace("\r\n", "\n")
            texts.setdefault(text, []).append(f"{name} {version}")

    own = components.pop(root)
    listed = list(components.values())
    compiler = dict(re.findall(r"^(\S+): (.*)$", output("rustc", "-vV"), re.MULTILINE))
    std = {
        "type": "library",
        "bom-ref": f"pkg:generic/rust-std@{compiler['release']}",
        "name": "rust-std",
        "version": compiler["release"],
        "description": "The Rust standard library, with what it contains itself",
        "licenses": [{"expression": "MIT OR Apache-2.0"}],
        "purl": f"pkg:generic/rust-std@{compiler['release']}",
        "externalReferences": [{"type": "vcs", "url": "https://github.com/rust-lang/rust"}],
    }
    listed.append(std)
    runtime = [std["bom-ref"]]
    if ziglang:
        # Its unwinder and its compiler-rt are linked in, and those parts of glibc that always are.
        version = output(f"{ziglang}/zig", "version").strip()
        for name, license, files in [
            ("zig-compiler-rt", "MIT", ["LICENSE"]),
            ("llvm-libunwind", "Apache-2.0 WITH LLVM-exception", ["lib/libunwind/LICENSE.TXT"]),
            (
                "glibc-nonshared",
                "LGPL-2.1-or-later WITH GCC-exception-2.0",
                ["lib/libc/glibc/io/stat64-2.32.c", "lib/libc/glibc/LICENSES"],
            ),
        ]:
            purl = f"pkg:generic/{name}@zig-{version}"
            listed.append(
                {
                    "type": "library",
                    "bom-ref": purl,
                    "name": name,
                    "version": f"zig-{version}",
                    "description": f"As zig {version} brings it; in the shared library only",
                    "licenses": [{"expression": license}],
                    "purl": purl,
                    "externalReferences": [{"type": "vcs", "url": "https://codeberg.org/ziglang/zig"}],
                }
            )
            runtime.append(purl)
            for file in files:
                text = Path(ziglang, file).read_text(encoding="utf-8").strip()
                if file.endswith(".c"):  # its first comment: the exception
                    text = text.partition("*/")[0].replace("/* ", "")
                texts.setdefault(text, []).append(f"{name} of zig {version}")

    refs = {id: c["bom-ref"] for id, c in components.items()} | {root: own["bom-ref"]}
    depends = [
        {"ref": refs[id], "dependsOn": [refs[d] for d in edges[id]] + (runtime if id == root else [])}
        for id in sorted(packages, key=lambda id: refs[id])
    ]
    date = datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", time.time())), timezone.utc)
    bom = {
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": date.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "component": own,
            "properties": [
                {"name": "target", "value": target},
                {"name": "rustc", "value": compiler["release"]},
            ],
        },
        "components": listed,
        "dependencies": depends + [{"ref": ref} for ref in runtime],
    }
    # The same content has the same number.
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(bom, sort_keys=True))}"
    (directory / "lite-mamba.cdx.json").write_text(json.dumps(bom, indent=1) + "\n", encoding="utf-8")

    sysroot = Path(output("rustc", "--print", "sysroot").strip())
    std_notices = sysroot / "share/doc/rust/COPYRIGHT-library.html"
    if not std_notices.exists():
        sys.exit(f"{std_notices} is missing: it comes with rustup's rustc")
    (directory / "rust-standard-library.html").write_bytes(std_notices.read_bytes())

    rule = "=" * 100
    with open(directory / "THIRD-PARTY-LICENSES.txt", "w", encoding="utf-8") as out:
        print("What is linked into lite-mamba, and its licenses. Their texts follow, each once.\n", file=out)
        for c in listed:
            print(f"  {c['name']} {c['version']}: {c['licenses'][0]['expression']}", file=out)
        print("\nThose of rust-std and of what it contains are in rust-standard-library.html.", file=out)
        for text, whose in texts.items():
            print(f"\n{rule}\n{', '.join(whose)}\n{rule}\n\n{text}", file=out)


if __name__ == "__main__":
    main(*sys.argv[1:])
