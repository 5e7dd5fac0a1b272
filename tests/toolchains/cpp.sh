#!/usr/bin/env bash
# Sees to what tests the C++ binding and prints the names of the compilers. What is missing is installed where that may
# be done: as root, where there is apt-get.
set -euo pipefail

# What clang++ lacks for the sanitizers on Debian.
runtime() {
    local at
    at=$(mktemp -d)
    echo 'int main() {}' > "$at/empty.cpp"
    clang++ -fsanitize=address "$at/empty.cpp" -o "$at/empty" 2> /dev/null || echo "libclang-rt-$(clang++ -dumpversion | cut -d. -f1)-dev"
    rm -r "$at"
}

missing() {
    local tool
    for tool in "${compilers[@]}" cmake make pkg-config; do
        command -v "$tool" > /dev/null || echo "${tool/clang++/clang}"
    done
    ! command -v clang++ > /dev/null || runtime
}

compilers=(g++ clang++)
[ "$(uname)" != Darwin ] || compilers=(clang++)

# Twice: which runtime it is can only be told once there is a clang.
for _ in 1 2; do
    packages=$(missing)
    [ -n "$packages" ] && [ "$(id -u)" = 0 ] && command -v apt-get > /dev/null || break
    echo "installing" $packages >&2
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages; } >&2 || break
done
packages=$(missing)
[ -z "$packages" ] || { echo "cpp: missing:" $packages >&2 && exit 1; }
echo "${compilers[@]}"
