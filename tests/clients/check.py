"""What a backend does with redis-py, against the URL in argv: pipelines, decoding, groups, blocking reads."""

import sys

import redis

url = sys.argv[1]


def flat(answer):
    """Entries of a read of one stream, whether it answers in RESP2 or RESP3 shape."""
    found = list(answer.values())[0] if isinstance(answer, dict) else answer[0][1]
    return found[0] if found and isinstance(found[0], list) else found


for protocol in (2, 3):
    stream, group = f"tg:demo:ch:room:check-py-{protocol}", f"py-{protocol}"
    db = redis.Redis.from_url(url, decode_responses=True, protocol=protocol)
    db.delete(stream)
    assert db.ping()
    first = db.xadd(stream, {"data": "one"})
    with db.pipeline() as pipe:  # MULTI and EXEC
        pipe.xadd(stream, {"data": "two"})
        pipe.xlen(stream)
        second, length = pipe.execute()
    assert length == 2, length
    with db.pipeline(transaction=False) as pipe:
        for n in range(100):
            pipe.xadd(stream, {"data": f"n{n}"})
        assert len(pipe.execute()) == 100
    entries = db.xrange(stream, count=2)
    assert entries == [(first, {"data": "one"}), (second, {"data": "two"})], entries
    assert flat(db.xread({stream: first}, count=1)) == [(second, {"data": "two"})]

    db.xgroup_create(stream, group, id="0")
    taken = flat(db.xreadgroup(group, "a", {stream: ">"}, count=2))
    assert [offset for offset, _ in taken] == [first, second], taken
    assert db.xpending(stream, group)["pending"] == 2
    assert len(db.xautoclaim(stream, group, "b", 0, count=10)[1]) == 2
    assert db.xack(stream, group, first, second) == 2
    assert db.xpending(stream, group)["pending"] == 0
    assert db.xinfo_stream(stream)["length"] == 102
    last = db.xrevrange(stream, count=1)[0][0]
    assert not db.xread({stream: last}, block=20), "nothing came, yet a blocking read answered"

    raw = redis.Redis.from_url(url, protocol=protocol)
    offset = raw.xadd(stream, {"data": b"\x00\xff"})
    assert raw.xrange(stream, min=offset)[0][1] == {b"data": b"\x00\xff"}
    try:
        db.execute_command("NOSUCHCOMMAND")
        raise SystemExit("an unknown command was answered without an error")
    except redis.ResponseError as error:
        assert "unknown command" in str(error), error
    db.delete(stream)
    assert not db.exists(stream)
print("ok")
