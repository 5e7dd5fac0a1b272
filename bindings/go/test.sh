#!/usr/bin/env bash
# test.sh PREFIX: everything of the Go binding, against the library installed under PREFIX.
set -euo pipefail

[ $# = 1 ] || { echo "usage: $0 PREFIX" >&2; exit 2; }
prefix=$(cd "$1" && pwd)
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
cd "$here"

build=$(mktemp -d)
trap 'rm -rf "$build"' EXIT

if ! toolchain=$("$root/tests/toolchains/go.sh" 2> "$build/log"); then
    echo "skipped: $(tail -n 1 "$build/log")"
    [ "${CI:-}" != true ] || exit 1
    exit 77
fi
cat "$build/log" >&2

# Nothing is downloaded, nothing of the caller's settings counts, and the cache of builds is kept.
target=${CARGO_TARGET_DIR:-$root/target}
case $target in /*) ;; *) target=$root/$target ;; esac
mkdir -p "$target/bindings/go"
export PATH=$toolchain:$PATH GOTOOLCHAIN=local GOPROXY=off GOFLAGS= GOENV=off GOWORK=off CGO_ENABLED=1
export GOCACHE=$target/bindings/go/cache GOPATH=$build/path
export PKG_CONFIG_PATH=$prefix/lib/pkgconfig LD_LIBRARY_PATH=$prefix/lib DYLD_LIBRARY_PATH=$prefix/lib
unset CGO_CFLAGS CGO_LDFLAGS PKG_CONFIG

say() { echo "== go: $*"; }

say "$(go version), $(pkg-config --modversion lite_mamba)"
unformatted=$(gofmt -l .)
[ -z "$unformatted" ] || { echo "not as gofmt writes it: $unformatted" >&2; exit 1; }
go vet ./...
go mod tidy -diff

say "tests"
go test -count=1 ./...
say "tests, with the race detector"
go test -count=1 -race .
if [ "$(go env GOOS)" = linux ]; then
    say "tests, with the address sanitizer"
    go test -count=1 -asan .
fi

say "benchmarks, once each"
go test -run '^$' -bench . -benchtime 1x . > "$build/benchmarks" || { cat "$build/benchmarks" >&2; exit 1; }

say "examples"
go run ./examples/streaming
go run ./examples/load

say "the programs of the README, in a module of their own"
mkdir -p "$build/app/saved"
cd "$build/app"
readme() { # readme NUMBER: that block of Go
    awk -v wanted="$1" '/^```go$/ { inside = ++number == wanted; next } /^```$/ { inside = 0 } inside' "$here/README.md"
}
readme 1 > main.go
readme 2 > saved/main.go
go mod init example.org/app 2> /dev/null
go mod edit -require litemamba@v0.1.0 -replace "litemamba=$here"
go vet ./...
unset LD_LIBRARY_PATH DYLD_LIBRARY_PATH
CGO_LDFLAGS="-Wl,-rpath,$prefix/lib" go build -o shared .
./shared > shared.txt
if [ "$(go env GOOS)" = linux ]; then
    go build -tags litemamba_static -o static .
    ./static > static.txt
    cmp shared.txt static.txt
fi
cat shared.txt
CGO_LDFLAGS="-Wl,-rpath,$prefix/lib" go build -o streams ./saved
./streams
./streams | grep -x "10 tokens so far"
say "all is well"
