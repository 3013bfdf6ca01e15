#!/usr/bin/env python3
"""Runs what users copy, for real: the examples, common Redis clients, and the live page in a browser.

    scripts/check-clients.py                    against a redis-server that is started here
    scripts/check-clients.py TIDEGATE_BINARY    also against a node with its embedded backbone

`make clients` sets TIDEGATE_PYTHON (with redis-py) and TIDEGATE_NODE_MODULES; scripts/install-test-tools.sh
installs both. Each check prints one line; the last line says how many passed.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = os.environ.get("TIDEGATE_PYTHON", sys.executable)
NODE_MODULES = os.environ.get("TIDEGATE_NODE_MODULES", "")
OFFSET = r"\d{13}-\d+"
passed = 0


class Failed(Exception):
    pass


def run(name, command, wanted=None, timeout=60, env=None):
    """Runs a command to its end; it must succeed and print what `wanted` (a pattern) says."""
    global passed
    try:
        done = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
    except subprocess.TimeoutExpired as late:
        raise Failed(f"{name}: no end within {timeout} s\n{late.stdout or ''}{late.stderr or ''}") from None
    if done.returncode != 0:
        raise Failed(f"{name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    if wanted and not re.search(wanted, done.stdout):
        raise Failed(f"{name}: printed no {wanted!r}\n{done.stdout}{done.stderr}")
    passed += 1
    print(f"ok  {name}", flush=True)
    return done.stdout


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def acl_users():
    """The users of docs/redis.md, so that its lines are known to work."""
    lines = [line for line in (ROOT / "docs/redis.md").read_text().splitlines() if line.startswith("user ")]
    if len(lines) < 2:
        raise Failed("docs/redis.md shows no ACL lines")
    return "\n".join(["user default on nopass ~* &* +@all", *lines]) + "\n"


def stop(process):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def start_redis(folder):
    if not shutil.which("redis-server"):
        raise Failed("redis-server is missing: apt-get install redis-server")
    port = free_port()
    acl = folder / "users.acl"
    acl.write_text(acl_users())
    command = ["redis-server", ROOT / "examples/redis.conf", "--port", port, "--bind", "127.0.0.1", "--dir", folder,
               "--aclfile", acl, "--daemonize", "no"]
    log = open(folder / "redis.log", "w")
    process = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log)
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process, port
        if process.poll() is not None:
            break
        time.sleep(0.05)
    stop(process)
    raise Failed(f"redis-server does not start:\n{(folder / 'redis.log').read_text()}")


def start_node(binary, folder):
    command = [binary, "dev"]
    for flag in ("--listen", "--admin-listen", "--resp-listen"):
        command += [flag, "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(folder / "node.log", "w"), text=True)
    # Standard output ends when the node does, so this cannot wait for ever on a node that fails.
    for line in process.stdout:
        if line.startswith("ready "):
            fields = dict(part.split("=", 1) for part in line.split()[1:] if "=" in part)
            return process, {name: re.sub(r"^\w+://", "", value).rstrip("/") for name, value in fields.items()}
    stop(process)
    raise Failed(f"the node does not become ready:\n{(folder / 'node.log').read_text()}")


def check_backends(kind, url, copies):
    """Both examples: publish to a room and a user, and read `up` with a consumer group."""
    backends = {
        "Python": [PYTHON, ROOT / "examples/backend-python/backend.py"],
        "Node": ["node", copies / "backend.mjs"],
    }
    add = ("import redis, sys; redis.Redis.from_url(sys.argv[1]).xadd('tg:demo:up', "
           "{'topic': 'order', 'data': 'two pounds of tide', 'user': 'alice', 'session': 's'})")
    for name, command in backends.items():
        wanted = rf"room:1 {OFFSET}\nuser:a%2Fb@c {OFFSET}"
        run(f"{kind}: {name} backend publishes", [*command, "--url", url, "publish", "--room", "1", "--user", "a/b@c", "ahoy"], wanted)
        run(f"{kind}: a client sends", [PYTHON, "-c", add, url])
        run(f"{kind}: {name} backend reads up", [*command, "--url", url, "listen", "--count", "1"], "alice sends order: two pounds of tide")


def check_webhook(kind, url):
    """The forwarder against a receiver that fails at first: taken, answered, or put away."""
    global passed
    name = f"{kind}: webhook forwarder"
    env = {**os.environ, "WEBHOOK_SECRET": "a secret of the checks, long enough"}
    receiver = subprocess.Popen([PYTHON, ROOT / "tests/clients/receiver.py"], stdout=subprocess.PIPE, text=True, env=env)
    hook = f"http://127.0.0.1:{receiver.stdout.readline().split()[1]}/hook"
    session = "A" * 22
    add = ("import redis, sys; db = redis.Redis.from_url(sys.argv[1]);"
           f"[db.xadd('tg:demo:up', dict(entry, user='alice', session='{session}')) for entry in ("
           "{'topic': 'order', 'data': 'tide'}, {'topic': 'order', 'data': 'refuse me'},"
           "{'event': 'connected'}, {'topic': 'order', 'data': 'never'})]")
    run(f"{kind}: what is to be forwarded", [PYTHON, "-c", add, url])
    forwarder = subprocess.Popen(
        [PYTHON, ROOT / "examples/webhook-forwarder/forward.py", "--url", url, "--webhook", hook, "--attempts", "4"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    lines = []
    try:
        # What the checks before left in `up` is forwarded as well: until ours is put away, which is last.
        for line in forwarder.stdout:
            lines.append(line)
            if sum("dead letters" in line for line in lines) == 2:
                break
    finally:
        stop(forwarder)
        stop(receiver)
    took = receiver.stdout.read()
    look = ("import redis, sys; db = redis.Redis.from_url(sys.argv[1], decode_responses=True);"
            f"print([e['data'] + ' ' + e['id'][:6] for _, e in db.xrange('tg:demo:ch:session:{session}')]);"
            "print([[e['data'], e['reason'], e['attempts']] for _, e in db.xrange('tg:demo:dlq')]);"
            "print(db.xautoclaim('tg:demo:up', 'webhook', 'check', 0)[1])")
    wanted = r"""\['{"you": "tide"} reply-'\]\n\[\['refuse me', 'webhook: HTTP 400', '1'\], \['never', 'webhook: .*', '4'\]\]\n\[\]"""
    run(f"{name}: replies, dead letters, nothing left", [PYTHON, "-c", look, url], wanted)
    if forwarder.returncode != 0 or "took order of alice at attempt 3\ntook connected of alice at attempt 3" not in took:
        raise Failed(f"{name}: {forwarder.returncode}\n{took}{''.join(lines)}")
    passed += 1
    print(f"ok  {name}", flush=True)


def check_clients(kind, host, port, copies):
    run(f"{kind}: redis-py", [PYTHON, ROOT / "tests/clients/redis_py.py", host, port], "ok")
    run(f"{kind}: ioredis and node-redis", ["node", copies / "node.mjs", host, port], "ok")


def main():
    if not NODE_MODULES or not Path(NODE_MODULES).is_dir():
        raise Failed("TIDEGATE_NODE_MODULES names no folder: run scripts/install-test-tools.sh, or use `make clients`")
    with tempfile.TemporaryDirectory(prefix="tidegate-clients-") as temporary:
        folder = Path(temporary)
        # Node looks for packages beside a script; the scripts of the clone have none.
        (folder / "node_modules").symlink_to(Path(NODE_MODULES).resolve())
        for script in ("examples/backend-node/backend.mjs", "tests/clients/node.mjs"):
            shutil.copy(ROOT / script, folder)
        redis, port = start_redis(folder)
        try:
            check_backends("redis-server", f"redis://backend:change-me-too@127.0.0.1:{port}", folder)
            check_webhook("redis-server", f"redis://backend:change-me-too@127.0.0.1:{port}")
            check_clients("redis-server", "127.0.0.1", port, folder)
        finally:
            stop(redis)
        if len(sys.argv) > 1:
            check_node(sys.argv[1], folder)
    print(f"\n{passed} passed, 0 failed")


def check_node(binary, folder):
    node, at = start_node(binary, folder)
    try:
        check_backends("embedded", f"redis://{at['resp']}", folder)
        check_webhook("embedded", f"redis://{at['resp']}")
        check_clients("embedded", *at["resp"].rsplit(":", 1), folder)
    except Failed as failure:
        log = (folder / "node.log").read_text().splitlines()[-40:]
        raise Failed(f"{failure}\nthe node's log ends with:\n" + "\n".join(log)) from None
    finally:
        stop(node)
    check_page(binary, folder)


def check_page(binary, folder):
    """The live-room page in a browser; the runner starts nodes of its own and prints a line for each check."""
    global passed
    shots = Path(os.environ.get("TIDEGATE_TOOLS", folder)) / "page"
    command = ["node", ROOT / "tests/browser/run.mjs", binary, shots]
    process = subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, text=True, stdin=subprocess.DEVNULL)
    # Each check there has a time limit, so the lines end.
    for line in process.stdout:
        passed += line.startswith("ok  ")
        if line.strip() and not re.match(r"\d+ passed", line):
            print(line, end="", flush=True)
    if process.wait() != 0:
        raise Failed("the live page in Chromium: see above")
    print(f"    screenshots in {shots}")


if __name__ == "__main__":
    try:
        main()
    except Failed as failure:
        print(f"FAILED  {failure}", file=sys.stderr)
        print(f"\n{passed} passed, 1 failed")
        sys.exit(1)
