"""Drives a RESP listener with redis-py: redis_py.py HOST PORT. Prints `ok`, or fails."""

import sys
import threading
import time

import redis

HOST, PORT = sys.argv[1], int(sys.argv[2])


def client(**options):
    return redis.Redis(host=HOST, port=PORT, socket_timeout=10, **options)


def text(value):
    return value.decode() if isinstance(value, bytes) else value


def streams_of(reply):
    """RESP2 gives pairs, RESP3 a map, whose entries redis-py nests once more in some versions."""
    pairs = reply.items() if isinstance(reply, dict) else reply or []
    found = {}
    for key, entries in pairs:
        if entries and isinstance(entries[0], list) and entries[0] and isinstance(entries[0][0], (tuple, list)):
            entries = entries[0]
        found[text(key)] = [(text(entry[0]), {text(k): text(v) for k, v in entry[1].items()}) for entry in entries]
    return found


def check(protocol, decode):
    r = client(protocol=protocol, decode_responses=decode)
    key = f"tg:demo:ch:room:py-{protocol}-{decode}"
    assert r.ping()
    assert r.exists(key) == 0 and text(r.type(key)) == "none"

    first = text(r.xadd(key, {"data": "one"}))
    second = text(r.xadd(key, {"data": "two", "headers": "{}"}, maxlen=100))
    assert r.xlen(key) == 2 and text(r.type(key)) == "stream"
    got = [(text(i), {text(k): text(v) for k, v in f.items()}) for i, f in r.xrange(key)]
    assert got == [(first, {"data": "one"}), (second, {"data": "two", "headers": "{}"})], got
    assert [text(i) for i, _ in r.xrevrange(key, count=1)] == [second]
    assert streams_of(r.xread({key: first})) == {key: [got[1]]}
    assert not r.xread({key: "$"}, block=20)

    with r.pipeline() as pipe:
        for n in range(50):
            pipe.xadd(key, {"data": str(n)})
        pipe.xlen(key)
        replies = pipe.execute()
    assert replies[-1] == 52 and len({text(i) for i in replies[:-1]}) == 50
    plain = r.pipeline(transaction=False)
    plain.xlen(key).xdel(key, "1-1").ping()
    assert plain.execute() == [52, 0, True]
    broken = r.pipeline()
    broken.xadd(key, {"data": "x"}, id="1-1")
    try:
        broken.execute()
        raise AssertionError("an id that does not grow was taken")
    except redis.ResponseError as error:
        assert "equal or smaller" in str(error), error

    blocking_read(r, protocol, decode, key + "-wait")
    groups(r, key)
    info = r.xinfo_stream(key)
    assert info["length"] == 52 and text(info["last-generated-id"]), info
    assert r.xtrim(key, maxlen=10, approximate=False) == 42
    assert r.delete(key, key + "-wait") == 2
    r.close()


def blocking_read(r, protocol, decode, key):
    heard = {}

    def read():
        with client(protocol=protocol, decode_responses=decode) as other:
            heard.update(streams_of(other.xread({key: "0"}, block=5000)))

    reader = threading.Thread(target=read)
    reader.start()
    time.sleep(0.1)
    r.xadd(key, {"data": "late"})
    reader.join()
    assert [fields for _, fields in heard[key]] == [{"data": "late"}], heard


def groups(r, key):
    assert r.xgroup_create(key, "g", id="0", mkstream=True)
    try:
        r.xgroup_create(key, "g")
        raise AssertionError("a second group of the same name")
    except redis.ResponseError as error:
        assert str(error).startswith("BUSYGROUP"), error
    got = streams_of(r.xreadgroup("g", "a", {key: ">"}, count=2))[key]
    ids = [i for i, _ in got]
    assert len(ids) == 2
    assert [i for i, _ in streams_of(r.xreadgroup("g", "a", {key: "0"}))[key]] == ids
    assert r.xpending(key, "g")["pending"] == 2
    pending = r.xpending_range(key, "g", "-", "+", 10)
    assert [text(p["message_id"]) for p in pending] == ids and pending[0]["times_delivered"] == 2
    claimed = r.xautoclaim(key, "g", "b", 0, "0-0", count=1)
    assert text(claimed[1][0][0]) == ids[0] and text(claimed[0]) == ids[1], claimed
    assert [text(i) for i in r.xclaim(key, "g", "b", 0, [ids[1]], justid=True)] == [ids[1]]
    assert {text(c["name"]): c["pending"] for c in r.xinfo_consumers(key, "g")} == {"a": 0, "b": 2}
    assert r.xack(key, "g", *ids) == 2
    assert len(streams_of(r.xreadgroup("g", "a", {key: ">"}, noack=True))[key]) == 50
    group = r.xinfo_groups(key)[0]
    assert group["pending"] == 0 and group["lag"] == 0 and group["entries-read"] == 52, group
    assert not r.xreadgroup("g", "a", {key: ">"}, block=20)
    assert r.xgroup_delconsumer(key, "g", "a") == 0 and r.xgroup_destroy(key, "g")
    try:
        r.xreadgroup("g", "a", {key: ">"})
        raise AssertionError("a group that is gone was read")
    except redis.ResponseError as error:
        assert str(error).startswith("NOGROUP"), error


for protocol in (2, 3):
    for decode in (True, False):
        check(protocol, decode)
with client() as other:
    assert other.info("server")["redis_version"]
    try:
        other.execute_command("TIDEGATE.NONE")
        raise AssertionError("an unknown command was taken")
    except redis.ResponseError as error:
        assert "unknown command" in str(error), error
print("ok")
