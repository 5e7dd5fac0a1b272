#!/usr/bin/env bash
# Compiles and runs the C and C++ programs of this directory against an installed library, the prefix given:
# the shared one, and the static one. CC and CXX name the compilers, DLPACK a directory with dlpack/dlpack.h, where that
# of tests/c/standard is not to stand for it. Where CI is true nothing is skipped for want of a tool.
set -euo pipefail
[ $# = 1 ] || { echo "usage: $0 PREFIX" >&2 && exit 2; }
prefix=$(cd "$1" && pwd)
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

CC=${CC:-cc}
CXX=${CXX:-c++}
built=$(mktemp -d)
trap 'rm -rf "$built"' EXIT

warnings=(-Wall -Wextra -Werror -pedantic -O2 -g "-I$prefix/include")
c=("$CC" -std=c11 -D_POSIX_C_SOURCE=200809L -pthread "${warnings[@]}")
cxx=("$CXX" -std=c++17 "${warnings[@]}")
link=("-L$prefix/lib" "-Wl,-rpath,$prefix/lib" -llite_mamba -lm)
static=("$prefix/lib/liblite_mamba.a" -lpthread -ldl -lm)

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
        library=$prefix/lib/liblite_mamba.dylib
        exported=$(nm -gU "$library" | awk '{ print substr($NF, 2) }')
        ;;
    *)
        library=$prefix/lib/liblite_mamba.so
        exported=$(nm -D --defined-only "$library" | awk '{ print $NF }')
        exported_static=$(nm -g --defined-only "$prefix/lib/liblite_mamba.a" | awk 'NF == 3 { print $3 }')
        ;;
esac
# What the header declares, as the compiler sees it.
declared=$(echo '#include <lite_mamba.h>' | "$CC" "-I$prefix/include" -x c -E -P - | grep -oE '\blm_[a-z0-9_]+\(' | tr -d '(' | sort -u)
strangers=$(grep -v '^lm_' <<< "$exported" || true)
[ -z "$strangers" ] || fail "exported symbols that are not lm_*: $strangers"
diff <(echo "$declared") <(sort <<< "$exported") || fail "declared (<) and exported (>) functions differ"
diff <(sort <<< "$exported") <(sort <<< "${exported_static:-$exported}") || fail "the static library (>) has other global names"
passed "exported symbols ($(wc -l <<< "$exported"))"

"${c[@]}" -Wstrict-prototypes -Wmissing-prototypes tests/c/header.c -o "$built/header" "${link[@]}"
"${cxx[@]}" tests/c/header.cpp -o "$built/header_cpp" "${link[@]}"
"${cxx[@]}" tests/c/header.cpp -o "$built/header_cpp_static" "${static[@]}"
for program in arguments behaviour fork; do
    "${c[@]}" "tests/c/$program.c" -o "$built/$program" "${link[@]}"
    "${c[@]}" "tests/c/$program.c" -o "$built/${program}_static" "${static[@]}"
done
"${c[@]}" examples/c/quickstart.c -o "$built/quickstart" "${link[@]}"
"${c[@]}" tests/c/dlclose.c -o "$built/dlclose" -ldl

"${c[@]}" tests/c/golden.c -o "$built/golden" "${link[@]}"

# The standard's header before ours, where the compiler finds it; before, elsewhere; after, found and not found.
standard=$(cd "${DLPACK:-tests/c/standard}" && pwd)
[ -n "${DLPACK:-}" ] || expect=-DEXPECT_STANDARD
orders=(
    "alone ${expect:+-DEXPECT_OWN}"
    "first -I$standard -DDLPACK_FIRST=<dlpack/dlpack.h> ${expect:-}"
    "first_elsewhere -DDLPACK_FIRST=\"$standard/dlpack/dlpack.h\" ${expect:-}"
    "last -I$standard -DDLPACK_LAST=<dlpack/dlpack.h> ${expect:-}"
    "last_elsewhere -DDLPACK_LAST=\"$standard/dlpack/dlpack.h\" ${expect:+-DEXPECT_OWN}"
)
for order in "${orders[@]}"; do
    read -r name flags <<< "$order"
    # shellcheck disable=SC2086 # several words
    "${c[@]}" $flags tests/c/dlpack.c -o "$built/dlpack_$name" "${link[@]}"
    # shellcheck disable=SC2086
    "${cxx[@]}" $flags -x c++ tests/c/dlpack.c -x none -o "$built/dlpack_cpp_$name" "${link[@]}"
done

# The README's first program, compiled in its own words.
cp examples/c/stream.c "$built"
words=$(sed -n 's/^    \(cc .*\)/\1/p' README.md)
[ "$(wc -l <<< "$words")" -ge 2 ] || fail "the README has no shared and static cc"
while read -r line; do
    rm -f "$built/stream"
    echo "\$ $line"
    (cd "$built" && PREFIX=$prefix bash -euc "cc() { command $CC \"\$@\"; }; $line") || fail "the README's $line"
    run "stream" "$built/stream"
done <<< "$words"

# Declarations may hide in headers that others include first.
for language in c c++; do
    echo '#include <lite_mamba.h>' | "$CC" -x "$language" -fsyntax-only "${warnings[@]}" - || fail "header alone"
done
passed "header alone"

programs=(header header_cpp quickstart arguments behaviour fork {header_cpp,arguments,behaviour,fork}_static)
programs+=(dlpack_{,cpp_}{alone,first,first_elsewhere,last,last_elsewhere})
for program in "${programs[@]}"; do
    run "$program" "$built/$program"
done
for program in "${programs[@]}"; do
    run "$program, portable" env LITE_MAMBA_ISA=portable "$built/$program"
done

for isa in "" portable; do
    run "golden files${isa:+, $isa}" env LITE_MAMBA_ISA=$isa "$built/golden" tests/golden/*.safetensors
done

run dlclose "$built/dlclose" "$library"

if command -v valgrind > /dev/null; then
    for program in arguments behaviour dlpack_alone; do
        run "$program, valgrind" env UNDER_VALGRIND=1 valgrind -q --leak-check=full \
            --show-leak-kinds=definite --errors-for-leak-kinds=definite --error-exitcode=1 "$built/$program"
    done
elif [ "${CI:-}" = true ] && [ "$(uname)" = Linux ]; then
    fail "valgrind is missing"
else
    echo "skipped: valgrind is missing"
fi
