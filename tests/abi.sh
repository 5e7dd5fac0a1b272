#!/usr/bin/env bash
# The library given (with debug information, as packaging/dist.sh leaves it) has the ABI that is described, and
# packaging/abi.sh sees what it must: tried on libraries made from altered copies of the header.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if ! command -v abidw > /dev/null; then
    echo "skipped: abi: abidw is missing (Debian: abigail-tools)"
    [ "${CI:-}" != true ]
    exit
fi
packaging/abi.sh "$1" include/lite_mamba.h packaging/abi
echo "ok: the ABI is the one described"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# library NAME [SED SCRIPT]: of functions that do nothing, from the header after the script.
library() {
    mkdir "$work/$1"
    sed -E "${2:-}" include/lite_mamba.h > "$work/$1/lite_mamba.h"
    if [ -n "${2:-}" ] && cmp -s include/lite_mamba.h "$work/$1/lite_mamba.h"; then
        echo "FAILED: $1 alters nothing" >&2
        exit 1
    fi
    "${CC:-cc}" -E -P -DLM_API=FUNCTION "$work/$1/lite_mamba.h" |
        sed -zE 's/FUNCTION([^;]*);/\1 { __builtin_trap(); }/g' > "$work/$1/library.c"
    "${CC:-cc}" -g -shared -fPIC -w "$work/$1/library.c" -o "$work/$1/liblite_mamba.so" \
        "-Wl,-soname,liblite_mamba.so.$(sed -n 's/^#define LM_ABI_VERSION //p' "$work/$1/lite_mamba.h")"
}
# expect STATUS NAME [SED SCRIPT]
expect() {
    library "$2" "${3:-}"
    local status=0
    packaging/abi.sh "$work/$2/liblite_mamba.so" "$work/$2/lite_mamba.h" "$work/description" &> "$work/said" || status=$?
    if [ $status != "$1" ]; then
        echo "FAILED: $2 gives status $status instead of $1:" >&2
        cat "$work/said" >&2
        exit 1
    fi
    echo "ok: $2: status $status"
}

library first
packaging/abi.sh --update "$work/first/liblite_mamba.so" "$work/first/lite_mamba.h" "$work/description" > /dev/null
expect 0 same
expect 1 'a field in the middle' 's/^  size_t d_state;/  size_t new;\n&/'
expect 1 'a field in a gap' 's/^  uint32_t math;/&\n  uint32_t new;/'
expect 1 'a field less' '/^  uint64_t seed;/d'
expect 1 'a field of another type' 's/^  double dt_min;/  float dt_min;/'
expect 1 'fields that change places' 's/^  double dt_min;/  double swapped;/; s/^  double dt_max;/  double dt_min;/; s/swapped/dt_max/'
expect 1 'a parameter of another type' 's/lm_set_num_threads\(size_t n\)/lm_set_num_threads(uint32_t n)/'
expect 1 'a parameter more' 's/lm_set_num_threads\(size_t n\)/lm_set_num_threads(size_t n, int m)/'
expect 1 'another result' 's/^LM_API size_t lm_cache_batch/LM_API uint32_t lm_cache_batch/'
expect 1 'a function less' '/^LM_API void lm_destroy/d'
expect 1 'another number' 's/LM_ERR_IO = 7/LM_ERR_IO = 17/'
expect 1 'a name less' 's/LM_DTYPE_F16 = 4/LM_DTYPE_HALF = 4/'
expect 3 'a function more' 's/^LM_API void lm_destroy.*/&\nLM_API void lm_new(int n);/'
expect 3 'a field at the end' 's/^  uint64_t seed;/&\n  size_t new;/'
expect 3 'a name more' 's/^  LM_DTYPE_F16 = 4,/&\n  LM_DTYPE_F8 = 5,/'
expect 3 'a raised LM_ABI_VERSION' 's/^(#define LM_ABI_VERSION) .*/\1 999/; s/^  double dt_min;/  float dt_min;/'

if packaging/abi.sh --update "$work/a field in the middle/liblite_mamba.so" "$work/a field in the middle/lite_mamba.h" \
    "$work/description" &> /dev/null; then
    echo "FAILED: --update took an incompatible change" >&2
    exit 1
fi
echo "ok: --update refuses an incompatible change"
