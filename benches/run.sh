#!/usr/bin/env bash
# Builds a release node and measures it. Arguments go to the benchmark; --help lists them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$PWD/target}"
work="$(mktemp -d)"
mkdir "$work/pids"
redis=

# Every process that the run starts has a file named by its pid, as long as it runs.
cleanup() {
    local file
    [[ -z "$redis" ]] || kill "$redis" 2>/dev/null || true
    for file in "$work"/pids/*; do
        [[ ! -e "$file" ]] || kill "$(basename "$file")" 2>/dev/null || true
    done
    [[ -z "$redis" ]] || wait "$redis" 2>/dev/null || true
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 130' INT TERM

"${CARGO:-cargo}" build --release --locked -p tidegate -p tidegate-bench >&2

# Plugins in JavaScript and Python, which are too large to be kept beside their sources.
guests="$CARGO_TARGET_DIR/guests"
mkdir -p "$guests"
for name in transformer-js transformer-py; do
    if [[ ! -e "$guests/$name.wasm" || -n "$(find wit "plugins/$name" -newer "$guests/$name.wasm" -print -quit)" ]]; then
        tools="${TIDEGATE_TOOLS:-$CARGO_TARGET_DIR/tools}"
        scripts/install-test-tools.sh guests >&2
        TIDEGATE_JS_TOOLS="${TIDEGATE_JS_TOOLS:-$tools/guests-js}" \
            TIDEGATE_COMPONENTIZE_PY="${TIDEGATE_COMPONENTIZE_PY:-$tools/guests-py/bin/componentize-py}" \
            "$CARGO_TARGET_DIR/release/tidegate" plugin build "plugins/$name" --out "$guests/$name.wasm" >&2
    fi
done

if ! command -v redis-server >/dev/null; then
    echo "redis-server is not installed: run \`sudo apt-get install -y redis-server\`" >&2
    exit 1
fi

answers() {
    (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf 'PING\r\n' >&3 && read -r -t 1 line <&3 && [[ "$line" == +PONG* ]]) 2>/dev/null
}

# A port may be taken between the choice and the bind, so that a server that ends is tried elsewhere.
for _ in 1 2 3 4 5; do
    port=$((20000 + RANDOM % 10000))
    redis-server --port "$port" --bind 127.0.0.1 --save '' --dir "$work" \
        --stream-node-max-bytes 512 --client-output-buffer-limit 'pubsub 256mb 64mb 60' \
        >"$work/redis.log" 2>&1 &
    redis=$!
    for _ in $(seq 100); do
        kill -0 "$redis" 2>/dev/null || break
        ! answers "$port" || break 2
        sleep 0.05
    done
    kill "$redis" 2>/dev/null || true
    redis=
done
if [[ -z "$redis" ]]; then
    echo "redis-server did not start:" >&2
    cat "$work/redis.log" >&2
    exit 1
fi

# In the background, so that a signal is handled here at once.
"$CARGO_TARGET_DIR/release/tidegate-bench" run --node "$CARGO_TARGET_DIR/release/tidegate" \
    --redis-port "$port" --redis-pid "$redis" --pids "$work/pids" --guests "$guests" "$@" &
bench=$!
touch "$work/pids/$bench"
status=0
wait "$bench" || status=$?
rm -f "$work/pids/$bench"
exit "$status"
