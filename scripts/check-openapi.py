#!/usr/bin/env python3
"""Holds docs/openapi.json and docs/publish.md against a node with its embedded backbone.

    scripts/check-openapi.py TIDEGATE_BINARY

Schemathesis makes up requests from the document, right ones and wrong ones. An answer of 5xx, a status or
a media type that the document does not have, or a body that is not as it says is a failure. The requests
are the same in every run. The lines of docs/publish.md are run as they stand there. `make openapi` runs it with the Python of scripts/install-test-tools.sh.
"""

import json
import re
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
KEY = "demo-key"
# What is checked of each answer. Whether wrong requests are refused is for tests that know the rules: the
# document does not say which namespaces a tenant has.
CHECKS = ["not_a_server_error", "status_code_conformance", "content_type_conformance",
          "response_headers_conformance", "response_schema_conformance", "unsupported_method", "ignored_auth"]
EXAMPLES = 80
PATIENCE_S = 400


def start_node(binary, folder):
    command = [binary, "dev"]
    for flag in ("--listen", "--admin-listen", "--resp-listen"):
        command += [flag, "127.0.0.1:0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=open(folder / "node.log", "w"), text=True)
    # Standard output ends when the node does, so this cannot wait for ever on a node that fails.
    for line in process.stdout:
        found = re.match(r"ready .*\bhttp=(?:http://)?(\S+)", line)
        if found:
            return process, "http://" + found[1].rstrip("/")
    process.kill()
    sys.exit(f"FAILED  the node does not become ready:\n{(folder / 'node.log').read_text()}")


def stop(process):
    process.terminate()
    try:
        process.wait(40)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def ask(base, path, method="GET", body=None):
    request = urllib.request.Request(base + path, method=method, data=body and json.dumps(body).encode(),
                                     headers={"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.status, json.load(answer)


def run_page(base):
    """Runs the shell lines of docs/publish.md; every answer must be a success."""
    page = (ROOT / "docs/publish.md").read_text().replace("http://127.0.0.1:8080", base)
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.M | re.S)
    if len(blocks) < 5:
        sys.exit("FAILED  docs/publish.md has no lines to run")
    for block in blocks:
        lines = "set -euo pipefail\n" + block.replace("curl -sS", "curl -sS --fail-with-body")
        done = subprocess.run(["bash", "-c", lines], capture_output=True, text=True, timeout=60)
        if done.returncode != 0 or '"error"' in done.stdout:
            sys.exit(f"FAILED  docs/publish.md:\n{block}{done.stdout}{done.stderr}")
    print(f"ok  {len(blocks)} blocks of docs/publish.md", flush=True)


def description(base):
    """The document as the node serves it, with the tenant and a send that there are."""
    document = ask(base, "/v1/openapi.json")[1]
    wide = {"channels": ["room:1", "room:2", "nowhere:1"], "data": "for the checks", "pace_per_s": 1}
    status, send = ask(base, "/v1/demo/publish", "POST", wide)
    if status != 202:
        sys.exit(f"FAILED  a request with a pace is no send: {status} {send}")
    document["components"]["parameters"]["Tenant"]["schema"] = {"type": "string", "enum": ["demo", "nobody"]}
    for parameter in document["paths"]["/v1/{tenant}/sends/{send}"]["parameters"]:
        if parameter.get("name") == "send":
            parameter["schema"] = {"type": "string", "enum": [send["send"], "0000000000000000~elsewhere"]}
            parameter["example"] = send["send"]
    # Namespaces of the demo tenant, so that most requests reach the log.
    document["components"]["schemas"]["Channel"]["pattern"] = "^(room|live|state|nowhere):[a-z0-9]{1,8}$"
    return document


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    with tempfile.TemporaryDirectory(prefix="tidegate-openapi-") as temporary:
        folder = Path(temporary)
        node, base = start_node(sys.argv[1], folder)
        try:
            run_page(base)
            began = time.monotonic()
            (folder / "openapi.json").write_text(json.dumps(description(base)))
            command = [sys.executable, "-m", "schemathesis.cli", "run", folder / "openapi.json", "--url", base,
                       "--header", f"Authorization: Bearer {KEY}", "--checks", ",".join(CHECKS),
                       # Their answers have no end; the Rust tests read them.
                       "--exclude-path-regex", "/(sse|stream)$",
                       "--mode", "all", "--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES,
                       "--seed", 1, "--generation-database", "none", "--request-timeout", 20, "--no-color"]
            done = subprocess.run([str(part) for part in command], cwd=folder, timeout=PATIENCE_S)
            if node.poll() is not None:
                sys.exit("FAILED  the node has ended meanwhile")
            if done.returncode != 0:
                log = (folder / "node.log").read_text().splitlines()[-20:]
                sys.exit("FAILED  the node's log ends with:\n" + "\n".join(log))
            print(f"ok  docs/openapi.json is what the node answers ({time.monotonic() - began:.0f} s)")
        except subprocess.TimeoutExpired:
            sys.exit(f"FAILED  no end within {PATIENCE_S} s")
        finally:
            stop(node)


if __name__ == "__main__":
    main()
