#!/usr/bin/env bash
# Makes the archive of this machine's system: target/dist/lite-mamba-VERSION-TARGET.tar.gz, and its checksum.
# The same commit and tools give the same bytes. For Linux, zig links it against glibc 2.17.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=$(mkdir -p "${CARGO_TARGET_DIR:-target}/dist" && cd "${CARGO_TARGET_DIR:-target}/dist" && pwd)
export CARGO_TARGET_DIR=${out%/dist}
target=$(rustc -vV | sed -n 's/^host: //p')
read -ra features <<< "$(packaging/features.sh "$target")"
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
name=lite-mamba-$version-$target
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || echo 0)}
export SOURCE_DATE_EPOCH

# The sources' places on this machine stay out of the messages of panics.
flags=--remap-path-prefix=$PWD=/lite-mamba
cargo fetch --locked --target "$target"
for registry in "${CARGO_HOME:-$HOME/.cargo}"/registry/src/*; do
    flags+=$'\x1f'--remap-path-prefix=$registry=/rust/deps
done
export CARGO_ENCODED_RUSTFLAGS=$flags

case $target in
    *-linux-gnu)
        tools=$(tests/toolchains/zig.sh)
        ziglang=$("$tools/python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__))')
        PATH=$tools:$PATH cargo zigbuild --locked --profile dist --lib ${features[@]+"${features[@]}"} --target "$target.2.17"
        ;;
    *) cargo build --locked --profile dist --lib ${features[@]+"${features[@]}"} --target "$target" ;;
esac
compiled=$CARGO_TARGET_DIR/$target/dist
# With the debug information, for abidw.
! [ -e "$compiled/liblite_mamba.so" ] || ln -f "$compiled/liblite_mamba.so" "$out/unstripped.so"

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
built=$stage/built
packaging/finish.sh "$compiled" "$built"
mkdir "$built/licenses"
packaging/third_party.py "$target" "$built/licenses" ${ziglang:+"$ziglang"}

PC_PREFIX="\${pcfiledir}/../.." packaging/install.sh "$built" "$stage/$name"
cp LICENSE "$stage/$name"
sed "s|@NAME@|$name|; s|@VERSION@|$version|" packaging/README.md.in > "$stage/$name/README.md"
rm -f "$out"/lite-mamba-*.tar.gz*
packaging/pack.py "$stage/$name" "$out/$name.tar.gz"
ls -l "$out/$name.tar.gz"
