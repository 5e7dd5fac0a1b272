#!/usr/bin/env bash
# Compiles and runs the C and C++ programs of this directory against the shared library in the directory
# given (or in LITE_MAMBA_LIBRARY_DIR, or target/release). CC and CXX name the compilers. Where CI is true
# nothing is skipped for want of a tool.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

library_dir=$(cd "${1:-${LITE_MAMBA_LIBRARY_DIR:-target/release}}" && pwd)
CC=${CC:-cc}
CXX=${CXX:-c++}
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

warnings=(-Wall -Wextra -Werror -pedantic -O2 -g -Iinclude)
c=("$CC" -std=c11 -D_POSIX_C_SOURCE=200809L -pthread "${warnings[@]}")
cxx=("$CXX" -std=c++17 "${warnings[@]}")
link=("-L$library_dir" "-Wl,-rpath,$library_dir" -llite_mamba -lm)

passed() { echo "ok: $1"; }
fail() {
    echo "FAILED: $1" >&2
    exit 1
}
run() {
    local name=$1
    shift
    timeout 600 "$@" || fail "$name (status $?)"
    passed "$name"
}

case $(uname) in
    Darwin)
        library=$library_dir/liblite_mamba.dylib
        exported=$(nm -gU "$library" | awk '{ print substr($NF, 2) }')
        ;;
    *)
        library=$library_dir/liblite_mamba.so
        exported=$(nm -D --defined-only "$library" | awk '{ print $NF }')
        ;;
esac
# What the header declares, as the compiler sees it.
declared=$(echo '#include <lite_mamba.h>' | "$CC" -Iinclude -x c -E -P - | grep -oE '\blm_[a-z0-9_]+\(' | tr -d '(' | sort -u)
strangers=$(grep -v '^lm_' <<< "$exported" || true)
[ -z "$strangers" ] || fail "exported symbols that are not lm_*: $strangers"
diff <(echo "$declared") <(sort <<< "$exported") || fail "declared (<) and exported (>) functions differ"
passed "exported symbols ($(wc -l <<< "$exported"))"

"${c[@]}" -Wstrict-prototypes -Wmissing-prototypes tests/c/header.c -o "$built/header" "${link[@]}"
"${cxx[@]}" tests/c/header.cpp -o "$built/header_cpp" "${link[@]}"
for program in arguments behaviour fork; do
    "${c[@]}" "tests/c/$program.c" -o "$built/$program" "${link[@]}"
done
"${c[@]}" tests/c/dlclose.c -o "$built/dlclose" -ldl
"${c[@]}" examples/c/quickstart.c -o "$built/quickstart" "${link[@]}"
"${c[@]}" examples/c/quickstart.c -o "$built/quickstart_static" "$library_dir/liblite_mamba.a" -ldl -lm

# Declarations may hide in headers that others include first.
for language in c c++; do
    echo '#include <lite_mamba.h>' | "$CC" -x "$language" -fsyntax-only "${warnings[@]}" - || fail "header alone"
done
passed "header alone"

programs=(header header_cpp quickstart quickstart_static arguments behaviour fork)
for program in "${programs[@]}"; do
    run "$program" "$built/$program"
done
for program in "${programs[@]}"; do
    run "$program, portable" env LITE_MAMBA_ISA=portable "$built/$program"
done

run dlclose "$built/dlclose" "$library"

if command -v valgrind > /dev/null; then
    for program in arguments behaviour; do
        run "$program, valgrind" env UNDER_VALGRIND=1 valgrind -q --leak-check=full \
            --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=1 "$built/$program"
    done
elif [ "${CI:-}" = true ]; then
    fail "valgrind is missing"
else
    echo "skipped: valgrind is missing"
fi
