"""Forwards what clients send, and what happens to their sessions, to a webhook.

    WEBHOOK_SECRET=… python forward.py --url redis://127.0.0.1:6380 --webhook https://example.com/hook

Reads tg:<tenant>:up as one worker of a consumer group. README.md says what the receiver gets.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import queue
import random
import re
import signal
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

import redis

GROUP = "webhook"
FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 10.0
# Entries that wait for one lane; more stay in Redis.
LANE_DEPTH = 1
ANSWER_BYTES = 64 * 1024
SESSION = re.compile(rb"[A-Za-z0-9_-]{22}")


class Refused(Exception):
    """The receiver will not take this entry, however often it is tried."""


class Failed(Exception):
    """It may take it later. `after` is how many seconds it asked to wait."""

    def __init__(self, why, after=0.0):
        super().__init__(why)
        self.after = after


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirected POST would arrive as a GET, signed for somebody else."""

    def redirect_request(self, *_):
        return None


def cloud_event_of(fields):
    """The headers of an entry in CloudEvents form, else None."""
    if b"headers" not in fields:
        return None
    headers = json.loads(fields[b"headers"])
    return headers if "ce-type" in headers else None


def request_of(offset, fields):
    """Body and headers: CloudEvents in binary mode, else the fields as one JSON object."""
    cloud_event = cloud_event_of(fields)
    if cloud_event:
        # Values are percent-encoded as the HTTP binding of CloudEvents says (section 3.1.3.2).
        safe = "".join(chr(c) for c in range(0x21, 0x7F) if chr(c) not in '"%')
        return fields.get(b"data", b""), {n: urllib.parse.quote(v, safe=safe) for n, v in cloud_event.items()}
    body = {"offset": offset}
    for name, value in fields.items():
        try:
            body[name.decode()] = value.decode()
        except UnicodeDecodeError:
            body[name.decode() + "_base64"] = base64.b64encode(value).decode()
    return json.dumps(body).encode(), {"content-type": "application/json"}


def signature(secret, timestamp, body):
    """HMAC-SHA256 over the timestamp, a dot, and the body."""
    return "v1=" + hmac.new(secret, timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


def session_of(fields):
    """The session to reply to, where the entry is about one."""
    session = fields.get(b"session")
    if session is None and (cloud_event := cloud_event_of(fields)):
        session = cloud_event.get("ce-subject", "").encode()
    return session.decode() if session and SESSION.fullmatch(session) else None


class Forwarder:
    def __init__(self, db, args, secret):
        self.db, self.args, self.secret = db, args, secret
        self.up, self.dlq = f"tg:{args.tenant}:up", f"tg:{args.tenant}:dlq"
        self.stop = threading.Event()
        self.opener = urllib.request.build_opener(NoRedirect)
        # One lane is one request at a time. A session always has the same lane, so its order is kept.
        self.lanes = [queue.Queue(LANE_DEPTH) for _ in range(args.concurrency)]
        # Only entries that no living worker can still be trying are taken over from others.
        longest_try_s = args.attempts * (args.timeout + LONGEST_PAUSE_S)
        self.take_over_ms = args.take_over_ms or int(1000 * longest_try_s * (LANE_DEPTH + 2))

    def run(self):
        workers = [threading.Thread(target=self.work, args=(lane,)) for lane in self.lanes]
        for worker in workers:
            worker.start()
        try:
            self.read()
        finally:
            self.stop.set()
            for worker in workers:
                worker.join()

    def read(self):
        """Hands entries to the lanes: first what this worker had and did not finish, then new ones."""
        position, pause, claim_at = "0", FIRST_PAUSE_S, 0.0
        while not self.stop.is_set():
            try:
                if time.monotonic() >= claim_at:
                    claim_at = time.monotonic() + min(10.0, self.take_over_ms / 1000)
                    self.hand_out(self.claim())
                entries = self.take(position)
                pause = FIRST_PAUSE_S
            except redis.ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
                self.make_group()
                continue
            except redis.ConnectionError as error:
                print(f"no Redis, trying again: {error}", file=sys.stderr, flush=True)
                self.stop.wait(pause * random.uniform(0.5, 1))
                pause = min(2 * pause, LONGEST_PAUSE_S)
                continue
            self.hand_out(entries)
            if position != ">":
                # Reading on after the last one: what is handed out is not acknowledged yet.
                position = entries[-1][0] if entries else ">"

    def make_group(self):
        try:
            # From the start of the stream: what came before the group was made counts too.
            self.db.xgroup_create(self.up, GROUP, id="0", mkstream=True)
        except redis.ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise

    def take(self, position):
        answer = self.db.xreadgroup(GROUP, self.args.name, {self.up: position}, count=16, block=1_000)
        # RESP3 answers with a map, RESP2 with pairs; redis-py nests entries differently in the two.
        streams = answer.values() if isinstance(answer, dict) else [found for _, found in answer or []]
        flat = [found[0] if found and isinstance(found[0], list) else found for found in streams]
        return [(offset.decode(), fields) for found in flat for offset, fields in found]

    def claim(self):
        answer = self.db.xautoclaim(self.up, GROUP, self.args.name, self.take_over_ms, count=16)
        return [(offset.decode(), fields) for offset, fields in answer[1]]

    def hand_out(self, entries):
        for offset, fields in entries:
            who = (fields or {}).get(b"session") or (fields or {}).get(b"user") or b""
            if fields and (cloud_event := cloud_event_of(fields)):
                who = cloud_event.get("ce-subject", "").encode()
            lane = self.lanes[zlib.crc32(who) % len(self.lanes)]
            while not self.stop.is_set():
                try:
                    lane.put((offset, fields), timeout=0.2)
                    break
                except queue.Full:
                    pass

    def work(self, lane):
        while True:
            try:
                offset, fields = lane.get(timeout=0.2)
            except queue.Empty:
                if self.stop.is_set():
                    return
                continue
            # What is not acknowledged stays pending: this worker finds it again when it starts.
            if not self.stop.is_set() and self.forward(offset, fields):
                self.patiently(self.db.xack, self.up, GROUP, offset)

    def forward(self, offset, fields):
        """Whether the entry is done with: taken, or put away. False where the process is to end first."""
        if not fields:
            return True  # It was trimmed meanwhile.
        pause = FIRST_PAUSE_S
        for attempt in range(1, self.args.attempts + 1):
            try:
                answer = self.post(offset, fields, attempt)
            except Refused as error:
                return self.put_away(offset, fields, attempt, error)
            except Failed as error:
                print(f"{offset} attempt {attempt}: {error}", file=sys.stderr, flush=True)
                if attempt == self.args.attempts:
                    return self.put_away(offset, fields, attempt, error)
                wait = max(pause * random.uniform(0.5, 1), min(error.after, LONGEST_PAUSE_S))
                if self.stop.wait(wait):
                    return False
                pause = min(2 * pause, LONGEST_PAUSE_S)
            else:
                print(f"{offset} taken at attempt {attempt}", flush=True)
                return self.reply(offset, fields, answer)
        return False

    def post(self, offset, fields, attempt):
        body, headers = request_of(offset, fields)
        # A new timestamp at every attempt, or a late one would look like a replay.
        timestamp = str(int(time.time()))
        headers.update({
            "Tidegate-Tenant": self.args.tenant, "Tidegate-Offset": offset, "Tidegate-Attempt": str(attempt),
            "Tidegate-Timestamp": timestamp, "Tidegate-Signature": signature(self.secret, timestamp, body),
            "User-Agent": "tidegate-webhook-forwarder",
        })
        request = urllib.request.Request(self.args.webhook, data=body, headers=headers, method="POST")
        try:
            with self.opener.open(request, timeout=self.args.timeout) as answer:
                return answer.read(ANSWER_BYTES)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code in (408, 425, 429) or error.code >= 500:
                after = error.headers.get("Retry-After", "")
                raise Failed(f"HTTP {error.code}", float(after) if after.isdigit() else 0.0) from None
            raise Refused(f"HTTP {error.code}") from None
        except OSError as error:
            raise Failed(f"no answer: {error}") from None

    def reply(self, offset, fields, answer):
        """Sends `reply` of the answer to the session; its id tells a repetition from a second reply."""
        session = session_of(fields)
        try:
            reply = json.loads(answer).get("reply")
        except (ValueError, AttributeError):
            reply = None
        if session is None or reply is None:
            return True
        data = reply if isinstance(reply, str) else json.dumps(reply)
        entry = {"data": data, "id": f"reply-{offset}"}
        if not isinstance(reply, (str, dict, list)):
            entry["headers"] = json.dumps({"content-type": "application/json"})
        return self.patiently(self.db.xadd, f"tg:{self.args.tenant}:ch:session:{session}", entry)

    def put_away(self, offset, fields, attempts, why):
        print(f"{offset} goes to the dead letters: {why}", file=sys.stderr, flush=True)
        letter = {**fields, b"channel": "up", b"offset": offset, b"reason": f"webhook: {why}", b"attempts": attempts}
        return self.patiently(self.db.xadd, self.dlq, letter)

    def patiently(self, command, *args):
        """Whether the command was carried out; tries again until then or until the end."""
        pause = FIRST_PAUSE_S
        while True:
            try:
                command(*args)
                return True
            except redis.ConnectionError:
                if self.stop.wait(pause):
                    return False
                pause = min(2 * pause, LONGEST_PAUSE_S)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://127.0.0.1:6380"))
    parser.add_argument("--tenant", default="demo")
    parser.add_argument("--webhook", default=os.environ.get("WEBHOOK_URL"), help="where to POST (WEBHOOK_URL)")
    parser.add_argument("--name", default=socket.gethostname(), help="this worker's name in the group")
    parser.add_argument("--concurrency", type=int, default=8, help="requests at a time")
    parser.add_argument("--attempts", type=int, default=6, help="tries until an entry is a dead letter")
    parser.add_argument("--timeout", type=float, default=5.0, help="seconds that one request may take")
    parser.add_argument("--take-over-ms", type=int, default=0, help="idle time after which other workers' entries are taken over; default: longer than all their attempts can take")
    args = parser.parse_args()
    secret = os.environ.get("WEBHOOK_SECRET", "").encode()
    if not args.webhook or not args.webhook.startswith(("http://", "https://")):
        raise SystemExit("say where to: --webhook https://… or WEBHOOK_URL")
    if len(secret) < 16:
        raise SystemExit("WEBHOOK_SECRET must have at least 16 bytes: it signs the requests")
    if args.concurrency < 1 or args.attempts < 1:
        raise SystemExit("--concurrency and --attempts must be at least 1")
    forwarder = Forwarder(redis.Redis.from_url(args.url), args, secret)
    for end in (signal.SIGINT, signal.SIGTERM):
        signal.signal(end, lambda *_: forwarder.stop.set())
    forwarder.run()


if __name__ == "__main__":
    main()
