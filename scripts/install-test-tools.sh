#!/usr/bin/env bash
# Installs what `make test` needs beside the Rust tool chain, and says what it does. Running it again is
# quick: what is there stays.
#
#   scripts/install-test-tools.sh              everything
#   scripts/install-test-tools.sh cargo-deny   only that
#   scripts/install-test-tools.sh guests       only what builds plugins in JavaScript and Python
#   scripts/install-test-tools.sh cargo-fuzz   only that, which the tests do not need
#
# System packages come by apt-get; the rest goes to $TIDEGATE_TOOLS (default: target/tools).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

tools="${TIDEGATE_TOOLS:-${CARGO_TARGET_DIR:-$PWD/target}/tools}"
redis_py=8.1.0
schemathesis=4.32.5
componentize_py=0.25.1
cargo_deny=0.20.2
cargo_fuzz=0.13.2
mkdir -p "$tools"

say() { printf 'install-test-tools: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
        say "this needs root, and there is no sudo: $*"
        return 1
    fi
}

apt_install() {
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get update -qq
    # dpkg may stop half way through Chromium's many dependencies; finishing and asking again helps.
    as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null || {
        say "apt-get failed, finishing what it began and trying once more"
        as_root apt-get -f install -y -qq >/dev/null
        as_root apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    }
}

system_packages() {
    local missing=()
    command -v redis-server >/dev/null || missing+=(redis-server)
    [ -x "${CHROMIUM:-/usr/bin/chromium}" ] || missing+=(chromium)
    command -v python3 >/dev/null || missing+=(python3)
    python3 -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    command -v node >/dev/null || missing+=(nodejs)
    command -v npm >/dev/null || missing+=(npm)
    [ ${#missing[@]} = 0 ] && return
    if ! command -v apt-get >/dev/null; then
        say "missing, and there is no apt-get to install them: ${missing[*]}"
        return 1
    fi
    say "installing ${missing[*]}"
    apt_install "${missing[@]}"
}

python_packages() {
    local stamp="$tools/venv/.tidegate"
    [ "$(cat "$stamp" 2>/dev/null)" = "redis $redis_py" ] && return
    say "installing redis-py $redis_py into $tools/venv"
    python3 -m venv "$tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet "redis==$redis_py"
    echo "redis $redis_py" >"$stamp"
}

api_checker() {
    local stamp="$tools/venv/.schemathesis"
    [ "$(cat "$stamp" 2>/dev/null)" = "$schemathesis" ] && return
    say "installing schemathesis $schemathesis into $tools/venv"
    "$tools/venv/bin/python" -m pip install --quiet "schemathesis==$schemathesis"
    echo "$schemathesis" >"$stamp"
}

node_packages() {
    local folder="$tools/clients"
    cmp -s tests/clients/package-lock.json "$folder/.tidegate" && return
    say "installing the packages of tests/clients into $folder"
    mkdir -p "$folder"
    cp tests/clients/package.json tests/clients/package-lock.json "$folder/"
    (cd "$folder" && npm ci --silent --no-audit --no-fund --ignore-scripts)
    cp tests/clients/package-lock.json "$folder/.tidegate"
}

# What builds plugins in JavaScript (400 MB) and Python (70 MB).
guest_tools() {
    local js="$tools/guests-js" python="$tools/guests-py"
    if ! cmp -s plugins/transformer-js/package-lock.json "$js/.tidegate"; then
        say "installing the packages of plugins/transformer-js into $js"
        mkdir -p "$js"
        cp plugins/transformer-js/package.json plugins/transformer-js/package-lock.json "$js/"
        # Not `npm ci`: it stops at optional packages for other systems that a registry does not have. What is in
        # the lock file is installed as that says.
        (cd "$js" && npm install --silent --no-audit --no-fund --ignore-scripts)
        cp plugins/transformer-js/package-lock.json "$js/.tidegate"
    fi
    [ "$(cat "$python/.tidegate" 2>/dev/null)" = "$componentize_py" ] && return
    say "installing componentize-py $componentize_py into $python"
    python3 -m venv "$python"
    "$python/bin/python" -m pip install --quiet "componentize-py==$componentize_py"
    echo "$componentize_py" >"$python/.tidegate"
}

dependency_checker() {
    export PATH="$PATH:$tools/bin"
    local version
    version="$(cargo-deny --version 2>/dev/null || true)"
    # Older ones cannot read what today's cargo says.
    [[ "$version" =~ ^cargo-deny\ 0\.(1[89]|[2-9][0-9])\. ]] && return
    say "building cargo-deny $cargo_deny, once: about two minutes"
    cargo install cargo-deny --quiet --locked --version "$cargo_deny" --no-default-features --debug \
        --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
}

fuzzer() {
    export PATH="$PATH:$tools/bin"
    command -v cargo-fuzz >/dev/null && return
    say "building cargo-fuzz $cargo_fuzz, once: about two minutes"
    cargo install cargo-fuzz --quiet --locked --version "$cargo_fuzz" --debug \
        --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
}

case "${1:-all}" in
    all)
        system_packages
        python_packages
        api_checker
        node_packages
        guest_tools
        dependency_checker
        ;;
    guests) guest_tools ;;
    cargo-deny) dependency_checker ;;
    cargo-fuzz) fuzzer ;;
    *)
        say "unknown: $1 (all, guests, cargo-deny, cargo-fuzz)"
        exit 2
        ;;
esac
