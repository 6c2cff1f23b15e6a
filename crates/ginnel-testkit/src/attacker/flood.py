"""One flood of HTTP/2 frames on one connection; tells how many frames went, how it ended and how long that took."""

import json
import struct
import time

from peer import *

KIND, COUNT = WORLD["flood"], WORLD["count"]
CHUNK = 2000
HELLO = block(call())
CANCELLED = struct.pack(">I", 8)


def same(frame):
    """The same frame again and again."""
    return lambda first, count: frame * count


def each(frames):
    """The frames of one stream after the other, each with its number."""
    return lambda first, count: b"".join(frames(2 * n + 1) for n in range(first, first + count))


def message(length):
    return struct.pack(">BI", 0, length)


FLOODS = {
    "ping": (b"", same(raw(PING, 0, 0, b"12345678"))),
    "settings": (b"", same(raw(SETTINGS, 0, 0, struct.pack(">HI", 4, 65_535)))),
    "empty settings": (b"", same(raw(SETTINGS, 0, 0))),
    "unknown": (b"", same(raw(0xFE, 0, 0, b"x" * 32))),
    "priority": (b"", same(raw(PRIORITY, 0, 1, struct.pack(">IB", 3, 1)))),
    "window": (raw(HEADERS, END_HEADERS, 1, HELLO), same(raw(WINDOW_UPDATE, 0, 1, struct.pack(">I", 1)))),
    "continuation": (raw(HEADERS, 0, 1, HELLO), same(raw(CONTINUATION, 0, 1, block([("x", "y")])))),
    "empty continuation": (raw(HEADERS, 0, 1, HELLO), same(raw(CONTINUATION, 0, 1))),
    "empty data": (raw(HEADERS, END_HEADERS, 1, HELLO), same(raw(DATA, 0, 1))),
    "tiny data": (raw(HEADERS, END_HEADERS, 1, HELLO) + raw(DATA, 0, 1, message(60_000)), same(raw(DATA, 0, 1, b"x"))),
    "padding": (raw(HEADERS, END_HEADERS, 1, HELLO), same(raw(DATA, PADDED, 1, b"\xff" + bytes(255)))),
    "rapid reset": (b"", each(lambda n: raw(HEADERS, END_HEADERS, n, HELLO) + raw(RST_STREAM, 0, n, CANCELLED))),
    # What the client does wrong makes the server reset the stream, which is then not the client's to count (CVE-2025-8671).
    "made you reset": (b"", each(lambda n: raw(HEADERS, END_HEADERS, n, HELLO) + raw(WINDOW_UPDATE, 0, n, bytes(4)))),
    "made you reset after the end": (
        b"",
        each(lambda n: raw(HEADERS, END_HEADERS | END_STREAM, n, HELLO) + raw(DATA, 0, n, b"x")),
    ),
    "streams": (b"", each(lambda n: raw(HEADERS, END_HEADERS, n, HELLO))),
}

first, chunks = FLOODS[KIND]
connection = Connection(certificate=WORLD["certificate"])
started, sent = time.monotonic(), 0
open_still = connection.send(first)
while open_still and sent < COUNT:
    count = min(CHUNK, COUNT - sent)
    open_still = connection.send(chunks(sent, count))
    sent += count
    # Nobody counts what was read of it.
    with connection.lock:
        del connection.frames[:-100]
answers = open_still and connection.alive(60)
print(
    json.dumps(
        {
            "sent": sent,
            "answers": bool(answers),
            "closed": connection.ended(0 if answers else 10),
            "goaway": connection.goaway(),
            "seconds": time.monotonic() - started,
        }
    )
)
