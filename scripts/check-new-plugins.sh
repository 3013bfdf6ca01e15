#!/usr/bin/env bash
# Writes new plugins in Rust with `tidegate plugin new`, builds them and shows them samples. JavaScript and Python do
# so in the tests; Rust needs what scripts/install-wasm-tools.sh sets up, or a target that rustup has added.
#
#   scripts/check-new-plugins.sh target/debug/tidegate
set -euo pipefail
tidegate="$(realpath "$1")"
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target="${CARGO_TARGET_DIR:-$PWD/target}"
root="${TIDEGATE_TOOLS:-$target/tools}/wasm-rust"
if [ -d "$root" ]; then
    TIDEGATE_WASM_RUST="$(realpath "$root")"
    export TIDEGATE_WASM_RUST
fi
# The standard library is built once for all of them.
export CARGO_TARGET_DIR="$target/new-plugins"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT

# Writes and builds a plugin, and shows it the samples of standard input, if there are any, and its own.
try() {
    local name="$1" samples="$folder/expected.jsonl"
    shift
    cat >"$samples"
    "$tidegate" plugin new "$name" --lang rust --in "$folder" "$@" >/dev/null
    "$tidegate" plugin build "$folder/$name"
    "$tidegate" plugin check "$folder/$name/$name.wasm"
    "$tidegate" plugin test "$folder/$name/$name.wasm" --samples "$samples" --set secret=sesame --deadline-ms 1000
    "$tidegate" plugin test "$folder/$name/$name.wasm" --samples "$folder/$name/samples.jsonl" --deadline-ms 1000
}

try all --hook authenticate --hook on-subscribe --hook on-publish --hook route --hook on-deliver --hook on-session \
    <tests/plugins/new.jsonl
try for-classes --hook on-deliver-class <<'END'
{"data": "hello", "class": "gold", "expect": {"verdict": "replace", "data": "hello (for gold)"}}
{"data": "", "expect": "drop"}
END
try for-sessions --hook on-deliver-session <<'END'
{"data": "hello", "user": "ada", "expect": {"verdict": "replace", "data": "hello (for ada)"}}
{"data": "", "expect": "drop"}
END
