#!/usr/bin/env bash
# Tests the Python package against an installed library: test.sh PREFIX. The package itself is installed too,
# into a virtual environment under CARGO_TARGET_DIR (or target), and tested from there.
set -euo pipefail

[ $# = 1 ] || { echo "usage: test.sh PREFIX" >&2; exit 2; }
prefix=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$root"
build=$(mkdir -p "${CARGO_TARGET_DIR:-target}/bindings/python" && cd "${CARGO_TARGET_DIR:-target}/bindings/python" && pwd)

skip() {
    echo "skipped: $1"
    [ "${CI:-}" = true ] && exit 1
    exit 77
}

python=$(tests/toolchains/python.sh 2> "$build/toolchain.log") || skip "$(tail -n 1 "$build/toolchain.log")"
command -v pkg-config > /dev/null || skip "python: pkg-config is missing"

export PKG_CONFIG_PATH=$prefix/lib/pkgconfig PYTHONDONTWRITEBYTECODE=1 PIP_DISABLE_PIP_VERSION_CHECK=1
unset LITE_MAMBA_LIBRARY PYTHONPATH
libdir=$(cd "$(pkg-config --variable=libdir lite_mamba)" && pwd)
LITE_MAMBA_HEADER=$(pkg-config --variable=includedir lite_mamba)/lite_mamba.h
export LITE_MAMBA_HEADER

# The environment stays until it would be made otherwise.
venv=$build/venv
made_from="$("$python" -c "import sys; print(sys.executable, sys.version)") $(cat "$here/requirements-test.txt")"
if [ "$(cat "$venv/made-from" 2> /dev/null)" != "$made_from" ]; then
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/pip" install -q -r "$here/requirements-test.txt"
    echo "$made_from" > "$venv/made-from"
fi
"$venv/bin/pip" install -q --no-deps --no-build-isolation --force-reinstall "$here"

cd "$here"
"$venv/bin/ruff" check --no-cache .
"$venv/bin/ruff" format --no-cache --check .
"$venv/bin/mypy" --cache-dir "$build/mypy" src examples/stream.py examples/token_by_token.py

# By name, so that no other copy on this machine is tested in its place; the tests of finding it go without.
case $(uname) in
Darwin) name=liblite_mamba.1.dylib ;;
*) name=liblite_mamba.so.1 ;;
esac
LITE_MAMBA_LIBRARY=$libdir/$name "$venv/bin/python" -m pytest -q
for example in token_by_token stream forecast; do
    "$venv/bin/python" "examples/$example.py"
done

# PyTorch is never installed for a test. Where the machine has it, what needs it is run too.
if "$python" -c "import torch, einops, lite_mamba, numpy, safetensors" 2> /dev/null; then
    LITE_MAMBA_LIBRARY=$libdir/$name PYTHONPATH=$here/src "$python" examples/check_against_pytorch.py
    "$python" test_export.py
    if "$python" -c "import pytest" 2> /dev/null; then
        LITE_MAMBA_LIBRARY=$libdir/$name PYTHONPATH=$here/src "$python" -m pytest -q tests/test_torch.py
    fi
else
    echo "no PyTorch here: examples/check_against_pytorch.py, test_export.py and tests/test_torch.py were not run"
fi
