"""A backend of Tidegate: pushes by XADD and reads what clients send.

    python backend.py --url redis://127.0.0.1:6380 publish --room 1 --user alice '{"text": "ahoy"}'
    python backend.py --url redis://127.0.0.1:6380 listen
"""

import argparse
import json
import os
import socket
import urllib.parse

import redis

GROUP = "backends"
# Entries that another worker took and did not finish for so long are taken over.
TAKE_OVER_MS = 60_000


def channel_key(tenant, channel):
    return f"tg:{tenant}:ch:{channel}"


def personal_channel(user):
    """A user's own channel; the id is percent-encoded."""
    return "user:" + urllib.parse.quote(user, safe="-_.~@=")


def publish(db, tenant, args):
    channels = []
    if args.room:
        channels.append(f"room:{args.room}")
    if args.user:
        channels.append(personal_channel(args.user))
    if not channels:
        raise SystemExit("say where to: --room NAME, --user ID, or both")
    for channel in channels:
        # `data` is the only field needed. An object or array in JSON reaches clients as such.
        fields = {"data": args.data, "headers": json.dumps({"ce-source": "/examples/backend-python"})}
        if args.ttl_ms:
            fields["ttl_ms"] = args.ttl_ms
        offset = db.xadd(channel_key(tenant, channel), fields)
        print(f"{channel} {offset}", flush=True)


def listen(db, tenant, args):
    stream = f"tg:{tenant}:up"
    try:
        # From the start of the stream: what clients sent before the group was made counts too.
        db.xgroup_create(stream, GROUP, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise
    handled = 0
    # First what this worker read and never finished, then new entries; `>` means new.
    position = "0"
    while not args.count or handled < args.count:
        entries = db.xautoclaim(stream, GROUP, args.name, TAKE_OVER_MS, count=10)[1]
        if not entries:
            answer = db.xreadgroup(GROUP, args.name, {stream: position}, count=10, block=5_000)
            # RESP3 answers with a map, RESP2 with pairs.
            streams = answer.values() if isinstance(answer, dict) else [found for _, found in answer or []]
            entries = [entry for found in streams for entry in flat(found)]
            if position != ">" and not entries:
                position = ">"
        for offset, fields in entries:
            if fields:
                handle(offset, fields)
            # Acknowledged when handled, not before: a crash means it comes again.
            db.xack(stream, GROUP, offset)
            handled += 1


def flat(found):
    """Entries as (offset, fields), however deep this version of redis-py nests them."""
    return found[0] if found and isinstance(found[0], list) else found


def handle(offset, fields):
    who = fields.get("user", "?")
    if "event" in fields:
        print(f"{offset} {who} {fields['event']}", flush=True)
    else:
        print(f"{offset} {who} sends {fields.get('topic', '')}: {fields.get('data', '')}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default=os.environ.get("REDIS_URL", "redis://127.0.0.1:6380"))
    parser.add_argument("--tenant", default="demo")
    commands = parser.add_subparsers(dest="command", required=True)
    pub = commands.add_parser("publish", help="publish to a room, to a user, or both")
    pub.add_argument("--room")
    pub.add_argument("--user")
    pub.add_argument("--ttl-ms", type=int, help="not worth delivering after so long")
    pub.add_argument("data")
    sub = commands.add_parser("listen", help="read what clients send to the backends")
    sub.add_argument("--name", default=socket.gethostname(), help="this worker's name in the group")
    sub.add_argument("--count", type=int, default=0, help="stop after so many; 0 never stops")
    args = parser.parse_args()

    db = redis.Redis.from_url(args.url, decode_responses=True)
    try:
        {"publish": publish, "listen": listen}[args.command](db, args.tenant, args)
    except redis.ConnectionError as error:
        raise SystemExit(f"no connection to {args.url}: {error}")
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
