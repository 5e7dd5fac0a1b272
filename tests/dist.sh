#!/usr/bin/env bash
# The archive of `make dist` is what it promises to be, and passes the tests of all languages, unpacked at
# another place than it was made. LANGUAGES chooses among them. A language whose tests say by status 77 that
# they cannot run is skipped; where CI is true that is a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(cd "${CARGO_TARGET_DIR:-target}/dist" && pwd)
archive=$(ls "$out"/lite-mamba-*.tar.gz)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

size() { wc -c < "$1" | tr -d ' '; }
ok() { echo "ok: $1"; }
fail() {
    echo "FAILED: $1" >&2
    exit 1
}

sha256=$(python3 -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$archive")
[ "$(cat "$archive.sha256")" = "$sha256  $(basename "$archive")" ] || fail "the checksum"
tar -xzf "$archive" -C "$work"
prefix=$work/$(basename "$archive" .tar.gz)
SOURCE_DATE_EPOCH=$(python3 -c 'import os, sys; print(int(os.stat(sys.argv[1]).st_mtime))' "$prefix") \
    packaging/pack.py "$prefix" "$work/again.tar.gz"
cmp "$archive" "$work/again.tar.gz" || fail "packed again, the archive has other bytes"
ok "archive: $(size "$archive") bytes, the same when packed again"

if [ "$(uname)" = Linux ]; then
    library=$(readlink -f "$prefix/lib/liblite_mamba.so")
    dynamic=$(readelf -dW "$library")
    needed=$(sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' <<< "$dynamic")
    # Of glibc, as it was divided until 2.34.
    strangers=$(grep -vxE 'lib(c|m|dl|pthread)\.so\.[0-9]+|ld-linux.*|libgcc_s\.so\.1' <<< "$needed" || true)
    [ -z "$strangers" ] || fail "the library needs $strangers"
    grep -q "(SONAME).*\[liblite_mamba\.so\.$(sed -n 's/^#define LM_ABI_VERSION //p' "$prefix/include/lite_mamba.h")\]" <<< "$dynamic" ||
        fail "the soname"
    grep -q '(FLAGS_1).*NODELETE' <<< "$dynamic" || fail "the library can be unmapped"
    ! grep -qE 'RPATH|RUNPATH|TEXTREL' <<< "$dynamic" || fail "RPATH or TEXTREL"
    ! grep -qE '\.(debug|symtab)' <<< "$(readelf -SW "$library")" || fail "the library is not stripped"
    glibc=$(readelf -VW "$library" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -1)
    [ "$(printf '%s\nGLIBC_2.17\n' "$glibc" | sort -V | tail -1)" = GLIBC_2.17 ] || fail "the library needs $glibc"
    for place in "$HOME/" "$PWD/src/" "$PWD/target/"; do
        ! grep -raqF "$place" "$prefix/lib" || fail "$(grep -ralF "$place" "$prefix/lib") has a path of this machine"
    done
    ok "library: $(size "$library") bytes, needs $glibc; ${needed//$'\n'/ }"
    ok "static library: $(size "$prefix/lib/liblite_mamba.a") bytes"
    cuda=$(python3 -c 'import ctypes, sys
info = ctypes.CDLL(sys.argv[1]).lm_build_info
info.restype = ctypes.c_char_p
print(info().decode().rpartition("; ")[2])' "$library")
    case $cuda in
        "CUDA on "* | "CUDA not usable: "*) ok "library: $cuda" ;;
        *) fail "the library is without layers on GPUs: $cuda" ;;
    esac
fi

python3 - "$prefix/share/licenses/lite-mamba" << 'END' || fail "the list of what is linked in"
import json, re, sys
from pathlib import Path
directory = Path(sys.argv[1])
bom = json.loads((directory / "lite-mamba.cdx.json").read_text())
assert bom["bomFormat"] == "CycloneDX" and bom["specVersion"] == "1.5" and bom["version"] == 1
assert re.fullmatch("urn:uuid:[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", bom["serialNumber"])
components = [bom["metadata"]["component"], *bom["components"]]
refs = {c["bom-ref"] for c in components}
assert len(refs) == len(components)
notices = (directory / "THIRD-PARTY-LICENSES.txt").read_text()
for c in components:
    assert c["type"] == "library" and c["name"] and c["version"] and c["purl"], c
    assert c["licenses"][0]["expression"], c
    if c["purl"].startswith("pkg:cargo/") and c["name"] != "lite-mamba":
        assert len(c["hashes"][0]["content"]) == 64, c
        assert notices.count(f"{c['name']} {c['version']}") >= 2, f"no license text of {c['name']}"
for d in bom["dependencies"]:
    assert {d["ref"], *d.get("dependsOn", [])} <= refs, d
assert {d["ref"] for d in bom["dependencies"]} == refs
names = {c["name"] for c in components}
assert {"lite-mamba", "rayon", "safetensors", "ndarray", "rust-std"} <= names
assert ({"cudarc", "miniz_oxide"} <= names) == (sys.platform != "darwin")
assert not {"criterion", "proptest", "cbindgen", "syn"} & names
assert (directory / "rust-standard-library.html").stat().st_size > 10_000
print(f"ok: {len(bom['components'])} components, with their licenses")
END

# The languages, the longest first, as many at once as there are cores.
run() {
    local start=$SECONDS status=0 tests=bindings/$1/test.sh
    [ "$1" != c ] || tests=tests/c/run.sh
    "$tests" "$prefix" > "$work/$1.log" 2>&1 < /dev/null || status=$?
    echo "$status $((SECONDS - start))" > "$work/$1.status"
}
export -f run
export prefix work
languages=${LANGUAGES:-swift go cpp c python}
xargs -n 1 -P "$(getconf _NPROCESSORS_ONLN)" bash -c 'run "$1"' run <<< "$languages"

failed=
for language in $languages; do
    read -r status seconds < "$work/$language.status"
    if [ "$status" = 0 ]; then
        ok "$language ($seconds s)"
    elif [ "$status" = 77 ] && [ "${CI:-}" != true ]; then
        grep '^skipped' "$work/$language.log" || echo "skipped: $language"
    else
        failed+=" $language"
        cat "$work/$language.log"
        echo "FAILED: $language, status $status ($seconds s)"
    fi
done
[ -z "$failed" ] || fail "languages:$failed"
