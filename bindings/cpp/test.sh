#!/usr/bin/env bash
# Tests the C++ header and the CMake package of an installed library: test.sh PREFIX.
set -euo pipefail

[ $# = 1 ] || { echo "usage: test.sh PREFIX" >&2; exit 2; }
prefix=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

ok() { echo "ok: $1"; }
fail() {
    echo "FAILED: $1" >&2
    exit 1
}

compilers=$("$root/tests/toolchains/cpp.sh" 2> "$build/toolchain.log") || {
    echo "skipped: cpp: $(tail -n 1 "$build/toolchain.log")"
    [ "${CI:-}" != true ] || exit 1
    exit 77
}
for file in include/lite_mamba.hpp lib/cmake/lite_mamba/lite_mamba-config{,-version}.cmake lib/pkgconfig/lite_mamba.pc; do
    [ -s "$prefix/$file" ] || fail "there is no $file in $prefix"
done

unset CPATH CPLUS_INCLUDE_PATH LIBRARY_PATH LD_LIBRARY_PATH CMAKE_PREFIX_PATH CXXFLAGS LDFLAGS
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig PREFIX=$prefix ROOT=$root
read -ra include <<< "$(pkg-config --cflags lite_mamba) -pthread"
read -ra link <<< "$(pkg-config --libs lite_mamba) -Wl,-rpath,$prefix/lib"
warnings=(-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror)

# The tests of one compiler and standard, or under one sanitizer. They do without warnings there, which gcc gets wrong
# in its own library under sanitizers.
compile_tests() { # DIRECTORY COMPILER FLAG...
    local directory=$1 source
    shift
    mkdir "$directory"
    "$@" -fno-exceptions -fno-rtti "${include[@]}" -c "$here/tests/no_exceptions.cpp" -o "$directory/no_exceptions.o"
    for source in main golden behaviour threads; do
        "$@" "${include[@]}" -c "$here/tests/$source.cpp" -o "$directory/$source.o"
    done
    # The one without exceptions first: its inline functions must not stand in for the others'.
    "$@" "${include[@]}" "$directory"/{no_exceptions,main,golden,behaviour,threads}.o -o "$directory/tests" "${link[@]}"
}

standard() { # COMPILER STANDARD
    local at=$build/$1-$2
    compile_tests "$at" "$1" "-std=$2" -O1 "${warnings[@]}"
    "$at/tests"
    "$1" "-std=$2" -O1 "${warnings[@]}" -fno-exceptions -fno-rtti -DSTANDALONE "${include[@]}" \
        "$here/tests/no_exceptions.cpp" -o "$at/no_exceptions" "${link[@]}"
    "$at/no_exceptions"
    ! (ulimit -c 0 && "$at/no_exceptions" abort) 2> "$at/aborted" || fail "a failure without exceptions"
    grep -q 'LM_ERR_IO: .*absent.safetensors' "$at/aborted" || fail "the message of an abort"
}

found() { # WORDS PROGRAM FAULT: that it is found, by these words and a status other than 0
    ! "$2" "$3" > "$2.$3.log" 2>&1 || fail "a planted fault was not found: $3"
    grep -q "$1" "$2.$3.log" || { cat "$2.$3.log" >&2 && fail "what was found is not the planted fault: $3"; }
}

sanitized() { # COMPILER SANITIZERS
    local at=$build/$1-$2
    local compile=("$1" -std=c++17 -g -O1 "-fsanitize=$2" -fno-sanitize-recover=all)
    # The library is not compiled with the thread sanitizer, which therefore sees none of its locks.
    echo "called_from_lib:liblite_mamba" > "$build/$1-$2.suppressions"
    export TSAN_OPTIONS=suppressions=$build/$1-$2.suppressions
    compile_tests "$at" "${compile[@]}"
    "${compile[@]}" "${include[@]}" "$here/tests/faults.cpp" -o "$at/faults" "${link[@]}"
    "$at/faults" none
    case $2 in
        address,undefined)
            found "AddressSanitizer: heap-buffer-overflow" "$at/faults" address
            found "runtime error: signed integer overflow" "$at/faults" undefined
            [ "$(uname)" = Darwin ] || found "LeakSanitizer: detected memory leaks" "$at/faults" leak
            ;;
        thread) found "ThreadSanitizer: data race" "$at/faults" thread ;;
    esac
    "$at/tests"
}

# Every kind of drift is seen.
drift() {
    local at=$build/drift header=$prefix/include/lite_mamba.h edit kind n=0
    mkdir "$at"
    "$1" -std=c++17 -O1 "${include[@]}" "$here"/tests/{main,drift}.cpp -o "$at/tests" "${link[@]}"
    "$at/tests"
    for edit in 'values s/^  LM_DTYPE_F16 = 4,/&\n  LM_DTYPE_I8 = 5,/' 'values s/^  LM_ERR_IO = 7,/  LM_ERR_IO = 70,/' \
        'values /^  LM_DT_INIT_CONSTANT = 1,/d' 'values s/^typedef enum lm_math {/typedef enum lm_maths {/' \
        'functions s/^LM_API void lm_destroy/LM_API void lm_annihilate(void);\n&/'; do
        kind=${edit%% *}
        n=$((n + 1))
        sed -e "${edit#* }" "$header" > "$at/$n.h"
        ! cmp -s "$header" "$at/$n.h" || fail "sed $edit changes nothing"
        ! LITE_MAMBA_H=$at/$n.h "$at/tests" "drift_of_$kind" 2> "$at/$n.log" || fail "drift is not seen: $edit"
    done
}

programs() { # COMPILER
    local at=$build/programs-$1 program
    mkdir "$at"
    for program in "$here"/tests/memory.cpp "$here"/benches/step.cpp; do
        "$1" -std=c++17 -O2 "${warnings[@]}" "${include[@]}" "$program" -o "$at/program" "${link[@]}"
        "$at/program"
    done
    ! "$1" -std=c++17 "${warnings[@]}" "${include[@]}" -fsyntax-only "$here/tests/ignored_result.cpp" 2> "$at/ignored" ||
        fail "a result can be ignored"
    grep -q 'unused-result' "$at/ignored" || { cat "$at/ignored" >&2 && fail "ignored_result.cpp has another error"; }

    # The README's pieces compile; its first program is the example.
    awk '/^```cpp$/ { n++; next } /^```$/ { if (n == 1) exit; next } n == 1' "$here/README.md" |
        diff - "$here/examples/streaming.cpp" || fail "README.md: not examples/streaming.cpp"
    {
        echo '#include <lite_mamba.hpp>'
        awk '
            /^```cpp$/ { inside = ++n > 1; if (inside) printf "void piece_%d(lite_mamba::layer& layer, lite_mamba::cache& cache,\n    std::vector<lite_mamba::layer>& layers, std::vector<float>& x, std::vector<float>& y, std::vector<float>& prompt,\n    std::vector<float>& token, std::vector<float>& next, std::vector<float>& due, std::size_t batch,\n    const DLManagedTensor& input, const DLManagedTensor& output) {\n", n; next }
            /^```$/ { if (inside) print "}"; inside = 0; next }
            inside' "$here/README.md"
    } > "$at/readme.cpp"
    grep -q piece_10 "$at/readme.cpp" || fail "README.md: pieces are missing"
    "$1" -std=c++17 -Wall -Werror -Wno-unused "${include[@]}" -c "$at/readme.cpp" -o "$at/readme.o"
}

# The examples as a user builds them.
examples() { # COMPILER
    local at=$build/examples-$1 co2=("$root/examples/co2/co2.safetensors" layers.0 layers.1 layers.2) kind
    cmake -S "$here/examples" -B "$at" -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_CXX_COMPILER="$1" \
        -DCMAKE_CXX_FLAGS="${warnings[*]}"
    cmake --build "$at"
    for kind in '' _static; do
        "$at/streaming$kind"
        "$at/load_pytorch_weights$kind" "${co2[@]}"
    done
    "$1" -std=c++17 "$here/examples/streaming.cpp" -o "$at/with_pkg_config" "${include[@]}" "${link[@]}"
    [ "$("$at/with_pkg_config")" = "$("$at/streaming_static")" ] || fail "shared and static library differ"
    ! "$at/load_pytorch_weights" "${co2[0]}" layers.3 2> "$at/error" || fail "a layer that is not there"
    grep -q layers.3 "$at/error" || fail "the message about a layer that is not there"
}

# find_package from C, for versions, for a LIBDIR of two levels and with the static library alone.
package() {
    local at=$build/package
    local moved=$at/moved/lib/triplet
    mkdir -p "$at/project" "$moved"
    cat > "$at/project/CMakeLists.txt" << 'END'
cmake_minimum_required(VERSION 3.13)
project(package LANGUAGES C)
find_package(lite_mamba ${WANTED} REQUIRED)
find_package(lite_mamba REQUIRED) # twice
add_executable(quickstart ${SOURCE})
target_link_libraries(quickstart PRIVATE lite_mamba::lite_mamba m)
END
    configure() { # DIRECTORY -DWHERE=… [VERSION]
        cmake -S "$at/project" -B "$at/$1" "$2" -DWANTED="${3:-}" -DSOURCE="$root/examples/c/quickstart.c"
    }
    local installed="-DCMAKE_PREFIX_PATH=$prefix" copied="-Dlite_mamba_DIR=$moved/cmake/lite_mamba"
    configure found "$installed" "$(pkg-config --modversion lite_mamba)"
    cmake --build "$at/found"
    "$at/found/quickstart"
    for version in 99.0 1.0 0.99; do
        ! configure "not_$version" "$installed" "$version" > "$at/log" 2>&1 || fail "find_package(lite_mamba $version)"
        grep -q "compatible with requested version \"$version\"" <<< "$(tr -s ' \n' ' ' < "$at/log")" ||
            { cat "$at/log" && fail "the message about version $version"; }
    done

    cp -R "$prefix/include" "$at/moved"
    cp -R "$prefix/lib/cmake" "$moved"
    ! configure none "$copied" > "$at/log" 2>&1 || fail "find_package without a library"
    grep -q 'neither [^ ]*/lib/triplet/liblite_mamba' <<< "$(tr -s ' \n' ' ' < "$at/log")" ||
        { cat "$at/log" && fail "the message without a library"; }
    cp "$prefix/lib/liblite_mamba.a" "$moved"
    configure static "$copied"
    cmake --build "$at/static"
    "$at/static/quickstart"
}

# What one prints is only shown if it fails.
job() {
    local start=$SECONDS status=0
    # In the background, for set -e to hold in there.
    (eval "$1") > "$build/$1.log" 2>&1 < /dev/null &
    wait $! || status=$?
    [ "$status" != 0 ] || { ok "$1 ($((SECONDS - start)) s)" && return; }
    cat "$build/$1.log"
    fail "$1, status $status"
}
compiler_jobs() { # COMPILER
    local each
    for each in "sanitized $1 address,undefined" "sanitized $1 thread" \
        "standard $1 c++17" "standard $1 c++20" "standard $1 c++2b" "programs $1" "examples $1"; do
        job "$each"
    done
}

# The compilers beside each other.
running=()
for compiler in $compilers; do
    compiler_jobs "$compiler" &
    running+=($!)
done
(
    job "drift $compiler"
    job package
) &
running+=($!)
failed=
for each in "${running[@]}"; do
    wait "$each" || failed=yes
done
[ -z "$failed" ]
