#!/usr/bin/env bash
# Prints the directory with the cargo-zigbuild and python of an environment that has zig, which links against
# old versions of glibc; makes it in LITE_MAMBA_TOOLCHAINS, or target/toolchains, where it is not there yet.
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
zig=${LITE_MAMBA_TOOLCHAINS:-$repository/target/toolchains}/zig
packages=(ziglang==0.17.1 cargo-zigbuild==0.24.0)

if [ "$(cat "$zig/packages" 2> /dev/null)" != "${packages[*]}" ]; then
    {
        rm -rf "$zig"
        python3 -m venv "$zig"
        "$zig/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary :all: "${packages[@]}"
    } >&2 || {
        echo "zig is missing, and cannot be had from PyPI" >&2
        exit 1
    }
    echo "${packages[*]}" > "$zig/packages"
fi
echo "$zig/bin"
