#!/bin/sh
# Sees to the programs that building and testing need besides cargo: installs what is missing where it may,
# else says what that is. Tests without their program are skipped, but where CI is true this fails.
# The toolchains of other languages, and zig, have scripts of their own in tests/toolchains; but what these would
# ask apt-get for is seen to here, as they run at the same time.
set -eu

missing=
# need PROGRAM PACKAGES, as Debian calls them
need() {
    command -v "$1" > /dev/null || missing="$missing $2"
}
need cc gcc
need g++ g++
need clang++ "clang libclang-rt-dev" # with the sanitizers' libraries
need cmake cmake
need pkg-config pkg-config
need valgrind valgrind
need abidw abigail-tools
need python3 python3
command -v swift > /dev/null || need debootstrap debootstrap
python3 -c 'import venv, ensurepip' 2> /dev/null || missing="$missing python3-venv"
if command -v clang > /dev/null && ! ls "$(clang -print-resource-dir)"/lib/*/*asan* > /dev/null 2>&1; then
    missing="$missing libclang-rt-dev"
fi
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # one argument for each
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing && exit 0
fi
echo "missing for some of the tests:$missing" >&2
[ "${CI:-}" != true ]
