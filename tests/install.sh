#!/usr/bin/env bash
# `make install` lays out what it should where it should, and `make uninstall` leaves nothing of it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
fail() {
    echo "FAILED: $1" >&2
    exit 1
}

packaged=(make --no-print-directory "DESTDIR=$root" PREFIX=/opt/lm LIBDIR=lib/any-triplet)
# As under sudo: without cargo.
"${packaged[@]}" install CARGO=no-cargo
(cd "$root" && find . -type f -o -type l) | sort
for file in include/lite_mamba.{h,hpp} lib/any-triplet/liblite_mamba.a lib/any-triplet/pkgconfig/lite_mamba.pc \
    lib/any-triplet/cmake/lite_mamba/lite_mamba-config{,-version}.cmake share/licenses/lite-mamba/LICENSE; do
    [ -s "$root/opt/lm/$file" ] || fail "no $file"
done
! grep -rq '@[A-Z]' "$root"/opt/lm/lib --include="*.pc" --include="*.cmake" || fail "a place is not filled in"
grep -q "\"$(sed -n 's/^#define LM_VERSION "\(.*\)"/\1/p' include/lite_mamba.h)\"" "$root"/opt/lm/lib/any-triplet/cmake/*/*-version.cmake ||
    fail "the version of the CMake package"
grep -qx 'prefix=/opt/lm' "$root/opt/lm/lib/any-triplet/pkgconfig/lite_mamba.pc" || fail "the prefix of lite_mamba.pc"

mkdir -p "$root/opt/lm/share/doc/other"
"${packaged[@]}" uninstall
left=$(cd "$root" && find . -not -type d -o -name 'lite*mamba')
[ -z "$left" ] || fail "left: $left"
[ -d "$root/opt/lm/share/doc/other" ] || fail "uninstall removed what is not ours"
echo "ok: install and uninstall"
