#!/usr/bin/env bash
# Builds the plugins in Rust and puts each component beside its sources.
#
#   scripts/build-plugins.sh          builds and puts them there
#   scripts/build-plugins.sh --check  builds, and fails where what is there is not what the sources build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/install-wasm-tools.sh
target="${CARGO_TARGET_DIR:-$PWD/target}"
root="${TIDEGATE_TOOLS:-$target/tools}/wasm-rust"
root="$(realpath "$root")"
linker="$(realpath "$root/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin")/wasm-component-ld"

# The compiler is not the one that `cargo` belongs to, and its library is built from its own sources.
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu" RUSTC="$root/usr/bin/rustc" RUSTC_BOOTSTRAP=1
export CARGO_TARGET_DIR="$target/plugins"
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$linker"
# Where it is built says nothing about what is built.
remap="--remap-path-prefix=$root=/rust --remap-path-prefix=$PWD=/tidegate --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=/cargo"
export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUSTFLAGS="-Zunstable-options -Clinker-flavor=wasm-lld $remap"

(cd plugins && "${CARGO:-cargo}" build --release --locked --target wasm32-unknown-unknown \
    -Zbuild-std=std,panic_abort)

status=0
for manifest in plugins/*/Cargo.toml; do
    folder="$(dirname "$manifest")"
    name="$(basename "$folder")"
    built="$CARGO_TARGET_DIR/wasm32-unknown-unknown/release/${name//-/_}.wasm"
    if [ "${1:-}" != --check ]; then
        cp "$built" "$folder/$name.wasm"
    elif ! cmp -s "$built" "$folder/$name.wasm"; then
        printf 'build-plugins: %s is not what its sources build; run make plugins\n' "$folder/$name.wasm" >&2
        status=1
    fi
done
exit "$status"
