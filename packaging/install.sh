#!/usr/bin/env bash
# Lays out what `make install` and the archives of `make dist` hold:
#
#     install.sh [--uninstall] BUILT PREFIX
#
# BUILT holds the libraries as cargo names them, and in licenses/ what third_party.py wrote, if that is to be
# installed. DESTDIR stands before every path that is written. LIBDIR is a place in the prefix, lib if not
# given; PC_PREFIX the prefix that the pkg-config file names, PREFIX if not given.
set -euo pipefail
uninstall=
[ "${1:-}" != --uninstall ] || { uninstall=yes && shift; }
[ $# = 2 ] || { sed -n '2,4s/^# \{0,1\}//p' "$0" >&2 && exit 2; }
built=$1 prefix=${2%/}
cd "$(dirname "${BASH_SOURCE[0]}")/.."

libdir=${LIBDIR:-lib}
case $libdir in
    /* | */*/*) echo "LIBDIR is $libdir, and must be a place in the prefix, such as lib64 or lib/TRIPLET" >&2 && exit 2 ;;
esac
root=${DESTDIR:-}$prefix
version=$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
abi=$(sed -n 's/^#define LM_ABI_VERSION //p' include/lite_mamba.h)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# put MODE FILE PLACE: the place is below the prefix.
put() {
    if [ -n "$uninstall" ]; then
        rm -f "$root/$3"
    else
        mkdir -p "$(dirname "$root/$3")"
        # Removed first: a program that has the old library mapped keeps it.
        rm -f "$root/$3"
        install -m "$1" "$2" "$root/$3"
    fi
}
# point FILE PLACE: a link there, to a file beside it.
point() {
    rm -f "$root/$2"
    [ -n "$uninstall" ] || ln -s "$1" "$root/$2"
}
fill() {
    sed -e "s|@PREFIX@|${PC_PREFIX:-$prefix}|" -e "s|@LIBDIR@|$libdir|" -e "s|@VERSION@|$version|" \
        -e "s|@ABI_VERSION@|$abi|" -e "s|@LIBS_PRIVATE@|$private|" "$1" > "$work/filled"
}

# Whether a system's library is there; to uninstall, all systems' are meant.
has() { [ -n "$uninstall" ] || [ -e "$built/$1" ]; }

private=
if has liblite_mamba.so; then
    private="-lm -lpthread -ldl"
    put 755 "$built/liblite_mamba.so" "$libdir/liblite_mamba.so.$version"
    point "liblite_mamba.so.$version" "$libdir/liblite_mamba.so.$abi"
    point "liblite_mamba.so.$abi" "$libdir/liblite_mamba.so"
    put 644 "$built/liblite_mamba.a" "$libdir/liblite_mamba.a"
fi
if has liblite_mamba.dylib; then
    put 755 "$built/liblite_mamba.dylib" "$libdir/liblite_mamba.$version.dylib"
    point "liblite_mamba.$version.dylib" "$libdir/liblite_mamba.$abi.dylib"
    point "liblite_mamba.$abi.dylib" "$libdir/liblite_mamba.dylib"
    put 644 "$built/liblite_mamba.a" "$libdir/liblite_mamba.a"
fi
if has lite_mamba.dll; then
    private="-lkernel32 -lntdll -luserenv -lws2_32 -ldbghelp"
    put 755 "$built/lite_mamba.dll" bin/lite_mamba.dll
    # The import library under the name that -llite_mamba finds, the static one beside it.
    put 644 "$built/lite_mamba.dll.lib" "$libdir/lite_mamba.lib"
    put 644 "$built/lite_mamba.lib" "$libdir/lite_mamba_static.lib"
fi
[ -n "$uninstall" ] || has liblite_mamba.so || has liblite_mamba.dylib || has lite_mamba.dll || { echo "no library in $built: build it first" >&2 && exit 1; }

put 644 include/lite_mamba.h include/lite_mamba.h
fill packaging/lite_mamba.pc.in
put 644 "$work/filled" "$libdir/pkgconfig/lite_mamba.pc"
put 644 bindings/cpp/include/lite_mamba.hpp include/lite_mamba.hpp
put 644 bindings/cpp/cmake/lite_mamba-config.cmake "$libdir/cmake/lite_mamba/lite_mamba-config.cmake"
fill bindings/cpp/cmake/lite_mamba-config-version.cmake.in
put 644 "$work/filled" "$libdir/cmake/lite_mamba/lite_mamba-config-version.cmake"
put 644 examples/c/quickstart.c share/doc/lite-mamba/examples/quickstart.c
put 644 examples/c/stream.c share/doc/lite-mamba/examples/stream.c
put 644 LICENSE share/licenses/lite-mamba/LICENSE
for notice in THIRD-PARTY-LICENSES.txt rust-standard-library.html lite-mamba.cdx.json; do
    [ -z "$uninstall$(ls "$built/licenses/$notice" 2> /dev/null)" ] ||
        put 644 "$built/licenses/$notice" "share/licenses/lite-mamba/$notice"
done

# Directories that are ours alone.
[ -z "$uninstall" ] || rmdir "$root/$libdir/cmake/lite_mamba" "$root/share/doc/lite-mamba/examples" \
    "$root/share/doc/lite-mamba" "$root/share/licenses/lite-mamba" 2> /dev/null || true
