#!/usr/bin/env bash
# Sees to a Python that can make virtual environments and prints its path. One on PATH that is new enough is
# used; else Debian's is installed, where this may be done.
set -euo pipefail

minimum=3.9

missing() {
    echo "python: $1" >&2
    exit 1
}

# usable PYTHON: prints its path if it is new enough and has what venv needs
usable() {
    "$1" -c "
import sys, venv, ensurepip
sys.version_info >= tuple(map(int, '$minimum'.split('.'))) or sys.exit(1)
print(sys.executable)" 2> /dev/null
}

for python in python3 /usr/bin/python3; do
    usable "$python" && exit
done

wanted="Python $minimum or newer with its venv module"
command -v apt-get > /dev/null || missing "$wanted is not on PATH, and there is no apt-get to install it with"
[ "$(id -u)" = 0 ] || missing "$wanted is not on PATH (Debian: apt-get install python3-venv)"
echo "installing python3-venv" >&2
{ apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv; } >&2 ||
    missing "apt-get cannot install python3-venv"
usable /usr/bin/python3 || missing "$wanted is not what apt-get installs here"
