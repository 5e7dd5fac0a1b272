#!/usr/bin/env bash
# test.sh PREFIX: everything of the Swift binding, against the library installed under PREFIX.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
prefix=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
cd "$here"

mkdir -p "$target/bindings"
build=$(mktemp -d "$target/bindings/swift.XXXXXX")
trap 'rm -rf "$build"' EXIT

if ! toolchain=$("$root/tests/toolchains/swift.sh" 2> "$build/log"); then
    echo "skipped: $(tail -n 1 "$build/log")"
    [ "${CI:-}" != true ] || exit 1
    exit 77
fi
cat "$build/log" >&2

export PATH=$toolchain:$PATH PKG_CONFIG_PATH=$prefix/lib/pkgconfig LITE_MAMBA_PREFIX=$prefix
unset LD_LIBRARY_PATH DYLD_LIBRARY_PATH # which would win over the rpath

say() { echo "== swift: $*"; }

# package VERB DIRECTORY ARGUMENT...: swift VERB on the package there, without a trace in the source tree or the home
package() {
    swift "$1" --package-path "$2" --scratch-path "$build/$(basename "$2")" --cache-path "$build/cache" \
        --config-path "$build/config" --security-path "$build/security" \
        -Xlinker -rpath -Xlinker "$prefix/lib" "${@:3}"
}

# quietly COMMAND...: what it says only if it fails
quietly() {
    "$@" > "$build/log" 2>&1 || { cat "$build/log" >&2; return 1; }
}

say "$(swift --version 2>&1 | head -n 1)"

# Formatters of other versions have other tastes.
case $(swift format --version 2> /dev/null) in
    600.*) swift format lint --strict --recursive Package.swift Sources Tests Examples/Package.swift Examples/Sources ;;
esac

# Each golden case is a test: one line for each is too much where all is well.
tests=(--disable-xctest -Xswiftc -warnings-as-errors)
if [ "$(uname)" = Linux ]; then
    say "tests, with the address sanitizer and its leak detector"
    tests+=(--sanitize=address)
    export ASAN_OPTIONS=detect_leaks=1
else
    say "tests"
fi
quietly package test "$here" "${tests[@]}"
grep -E "Test run with [0-9]+ tests passed" "$build/log"
if [ "$(uname)" = Linux ]; then
    if LITE_MAMBA_TEST_LEAK=1 package test "$here" "${tests[@]}" --skip-build --filter plantedLeak > "$build/log" 2>&1 ||
        ! grep -q "LeakSanitizer: detected memory leaks" "$build/log"; then
        cat "$build/log" >&2
        echo "a planted leak is not detected" >&2
        exit 1
    fi
fi

say "examples"
quietly package build "$here/Examples"
example() { package run "$here/Examples" -q --skip-build "$@"; }
example Streaming
example Weights "$root/examples/co2/co2.safetensors" layers.0 layers.1 layers.2
quietly package build "$here/Examples" -c release
example -c release StepOverhead

# What the compiler must refuse, for the reason that the file's first line expects, and what it must take.
say "sharing between tasks"
modules=$build/Examples/debug/Modules
for snippet in Tests/Isolation/*.swift; do
    expected=$(sed -n '1s/^\/\/ expect: //p' "$snippet")
    status=0
    swiftc -swift-version 6 -diagnostic-style=llvm -emit-sil -o /dev/null -module-cache-path "$build/modules" \
        -I "$modules" -Xcc -I"$prefix/include" -Xcc -fmodule-map-file="$here/Sources/CLiteMamba/module.modulemap" \
        "$snippet" > "$build/log" 2>&1 || status=$?
    if [ -z "$expected" ]; then
        [ $status = 0 ] || { cat "$build/log" >&2; echo "$snippet does not compile" >&2; exit 1; }
    elif [ $status = 0 ] || ! grep -q " error: " "$build/log" || grep " error: " "$build/log" | grep -Evq "$expected"; then
        cat "$build/log" >&2
        echo "$snippet must fail, and only with: $expected" >&2
        exit 1
    fi
    echo "$(basename "$snippet" .swift): $([ -z "$expected" ] && echo accepted || echo refused)"
done

say "the programs of the README, in a package of their own"
app=$build/app-package
mkdir -p "$app/Sources/App"
readme() { # readme NUMBER: that block of Swift
    awk -v wanted="$1" '/^```swift$/ { inside = ++number == wanted; next } /^```$/ { inside = 0 } inside' README.md
}
readme 1 > "$app/Sources/App/main.swift"
readme 2 | sed "s|\.\./lite-mamba|$root|" > "$app/Package.swift"
grep -q "$root" "$app/Package.swift"
quietly package build "$app"
package run "$app" -q --skip-build App
readme 3 > "$app/Sources/App/main.swift"
quietly package build "$app"
cd "$build"
package run "$app" -q --skip-build App
package run "$app" -q --skip-build App | grep "^10 tokens so far"
say "all is well"
