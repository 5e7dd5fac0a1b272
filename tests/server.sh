#!/usr/bin/env bash
# The worked server: its outputs have the bits of direct forwards over restarts, and no client ends it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
manifest=examples/server/Cargo.toml
cargo=${CARGO:-cargo}
"$cargo" fmt --manifest-path $manifest --check
"$cargo" clippy --manifest-path $manifest --locked --all-targets -- -D warnings
"$cargo" test --manifest-path $manifest --locked
