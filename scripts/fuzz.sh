#!/usr/bin/env bash
# Runs the fuzz targets one after the other. What one of them finds is written to fuzz/artifacts; fix it,
# and keep the input under fuzz/corpus/<target>, which the tests replay.
#
#   FUZZ_SECONDS=600 FUZZ_TARGETS="json_frame websocket" make fuzz
#
# New inputs that reach new code are gathered in $CARGO_TARGET_DIR/fuzz-corpus, from where the kept
# corpus grows by hand: cargo fuzz cmin says which of them are worth it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
tools="${TIDEGATE_TOOLS:-$target/tools}"
seconds="${FUZZ_SECONDS:-60}"
# The compiler has to instrument what it builds, which only unstable flags make it do.
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR="$target/fuzz" PATH="$PATH:$tools/bin"

scripts/install-test-tools.sh cargo-fuzz
cargo fuzz build --release
for name in ${FUZZ_TARGETS:-$(cargo fuzz list)}; do
    found="$target/fuzz-corpus/$name"
    mkdir -p "$found"
    printf 'fuzz: %s for %s s\n' "$name" "$seconds" >&2
    cargo fuzz run --release "$name" "$found" "fuzz/corpus/$name" -- \
        -max_total_time="$seconds" -max_len=4096 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1
done
