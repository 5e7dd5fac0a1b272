#!/usr/bin/env bash
# Compares a library's ABI with its description:
#
#     abi.sh [--update] LIBRARY HEADER DESCRIPTION
#
# LIBRARY has full debug information. DESCRIPTION is a directory with what abidw said of the library
# (lite_mamba.abi), and the enumerated values of the header, which its functions do not show (values).
# The status is 0 where they agree, 3 where they differ but old programs run on, or the soname says that they
# do not; 1 where they do not and the soname is the old one. --update then writes the description, but for 1.
set -euo pipefail
update=
[ "${1:-}" != --update ] || { update=yes && shift; }
library=$1 header=$2 description=$3
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

abidw --no-show-locs --no-corpus-path --no-comp-dir-path --no-architecture --no-parameter-names \
    --drop-undefined-syms "$library" > "$work/whole"
mkdir "$work/new"
new=$work/new
"$here/abi.py" < "$work/whole" > "$new/lite_mamba.abi"
grep -oE '\bLM_[A-Z0-9_]+ = [0-9]+' "$header" | LC_ALL=C sort > "$new/values"

soname() { sed -n '1s/.* soname="\([^"]*\)".*/\1/p' "$1/lite_mamba.abi"; }
abi_version=$(sed -n 's/^#define LM_ABI_VERSION //p' "$header")
if [ "$(soname "$new")" != "liblite_mamba.so.$abi_version" ]; then
    echo "the soname is $(soname "$new"), but LM_ABI_VERSION $abi_version" >&2
    exit 1
fi

status=0
if [ ! -e "$description/lite_mamba.abi" ] || [ "$(soname "$new")" != "$(soname "$description")" ]; then
    echo "the ABI has a new number: $(soname "$new")"
    status=3
elif ! diff -r "$description" "$new" > /dev/null; then
    status=3
    "$here/abi.py" "$description/lite_mamba.abi" < "$work/whole" > "$work/as_before.abi"
    abidiff --no-added-syms "$description/lite_mamba.abi" "$work/as_before.abi" || status=1
    removed=$(LC_ALL=C comm -23 "$description/values" "$new/values")
    if [ -n "$removed" ]; then
        printf 'enumerated values that are gone or have another number:\n%s\n' "$removed"
        status=1
    fi
    if [ $status = 1 ]; then
        echo "the ABI has changed so that old programs break: undo it, or raise LM_ABI_VERSION (src/ffi/library.rs)" >&2
        exit 1
    fi
    echo "the ABI has grown:"
    diff "$description" "$new" | grep -E '^[<>] +<(elf-symbol|var-decl)|^[<>] LM_' || true
fi

if [ $status = 3 ] && [ -n "$update" ]; then
    mkdir -p "$description"
    cp "$new"/* "$description"
    exit 0
fi
[ $status = 0 ] || echo "\`make abi\` writes the new description" >&2
exit $status
