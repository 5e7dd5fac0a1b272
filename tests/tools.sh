#!/bin/sh
# Sees to the programs that the tests call besides cargo and a C compiler: installs what is missing where
# it may, else says what that is. Tests without their program are skipped, but where CI is true this fails.
set -eu

missing=
for tool in valgrind g++; do
    command -v "$tool" > /dev/null || missing="$missing $tool"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    # shellcheck disable=SC2086 # one argument for each
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $missing && exit 0
fi
echo "missing for some of the tests:$missing" >&2
[ "${CI:-}" != true ]
