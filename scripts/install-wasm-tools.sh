#!/usr/bin/env bash
# Sets up what builds plugins in Rust, in a folder of its own: nothing is installed into the system, and
# running it again is quick. Only who changes a plugin needs this: built ones stand beside their sources.
#
# With rustup that can reach its server, `rustup target add wasm32-unknown-unknown` does the same. Where it
# cannot, the tool chain has the linkers but no standard library for Wasm. Debian packages a compiler
# together with the library's sources; both must be of one version, so both come from there.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools="${TIDEGATE_TOOLS:-${CARGO_TARGET_DIR:-$PWD/target}/tools}"
root="$tools/wasm-rust"
mkdir -p "$tools"

say() { printf 'install-wasm-tools: %s\n' "$*" >&2; }

linkers="$(rustc --print sysroot)/lib/rustlib/$(rustc -vV | sed -n 's/^host: //p')/bin"
if [ ! -x "$linkers/wasm-component-ld" ]; then
    say "no wasm-component-ld in $linkers: install Rust with rustup"
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    say "no apt-get here: run 'rustup target add wasm32-unknown-unknown' instead"
    exit 1
fi

version="$(apt-cache policy rustc-web | sed -n 's/^  Candidate: //p')"
depends() { apt-cache depends "$1" 2>/dev/null | sed -n "s/^ *Depends: \($2\)\$/\1/p" | head -1; }
library="$(depends "libstd-rust-web-dev=$version" 'libstd-rust-web-[0-9.]*')"
llvm="$(depends "$library" 'libllvm[0-9]*')"
if [ -z "$version" ] || [ -z "$library" ] || [ -z "$llvm" ]; then
    say "no rustc-web among this machine's packages: run 'apt-get update' first"
    exit 1
fi

if [ "$(cat "$root/.tidegate" 2>/dev/null)" != "$version" ]; then
    say "unpacking rustc-web $version into $root (145 MB to fetch)"
    rm -rf "$root" "$root.debs"
    mkdir -p "$root" "$root.debs"
    (
        cd "$root.debs"
        apt-get download -qq "rustc-web=$version" "$library=$version" "libstd-rust-web-dev=$version" \
            "rust-web-src=$version" "$llvm" >&2
        for package in *.deb; do dpkg-deb -x "$package" "$root"; done
    )
    rm -rf "$root.debs"
    echo "$version" >"$root/.tidegate"
fi
ln -sfn "$linkers" "$root/usr/lib/rustlib/x86_64-unknown-linux-gnu/bin"
say "ready: $root"
