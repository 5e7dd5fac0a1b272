#!/usr/bin/env bash
# Copies the libraries that cargo compiled, as they are shipped: finish.sh COMPILED BUILT
#
# Without debug information. For Linux the static library becomes one object, with what the lm_ functions need
# and no other global name: so it goes together with other Rust libraries in one program.
set -euo pipefail
compiled=$1 built=$2
mkdir -p "$built"
if [ -e "$compiled/liblite_mamba.so" ]; then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    strip -o "$built/liblite_mamba.so" "$compiled/liblite_mamba.so"
    nm -D --defined-only --format=posix "$compiled/liblite_mamba.so" | cut -d' ' -f1 > "$work/exported"
    strip -g -R .llvmbc -R .llvmcmd -o "$work/all.a" "$compiled/liblite_mamba.a"
    sed 's/^/--undefined=/' "$work/exported" | xargs ld -r --gc-sections -o "$work/lite_mamba.o" "$work/all.a"
    objcopy --keep-global-symbols="$work/exported" "$work/lite_mamba.o"
    rm -f "$built/liblite_mamba.a"
    ar rcsD "$built/liblite_mamba.a" "$work/lite_mamba.o"
elif [ -e "$compiled/liblite_mamba.dylib" ]; then
    strip -x -o "$built/liblite_mamba.dylib" "$compiled/liblite_mamba.dylib"
    strip -S -o "$built/liblite_mamba.a" "$compiled/liblite_mamba.a"
else
    cp "$compiled"/lite_mamba.{dll,dll.lib,lib} "$built"
fi
