"""What gRPC can be told that makes no sense: deadlines, encodings, sizes. By its own library where that lets itself be misused, by hand where not."""

import json
import struct

import grpc
from hyperframe.frame import HeadersFrame

from peer import *

CREDENTIALS = {
    True: grpc.ssl_channel_credentials(open(WORLD["root"], "rb").read(), open(WORLD["key"], "rb").read(), open(WORLD["chain"], "rb").read()),
    False: grpc.ssl_channel_credentials(open(WORLD["root"], "rb").read()),
}
OPTIONS = [("grpc.ssl_target_name_override", WORLD["name"]), ("grpc.max_send_message_length", -1)]
wrong, cases = [], 0


def library(what, certificate, path, message, allowed, **options):
    """A call of the library, and the statuses that it may end with."""
    global cases
    cases += 1
    with grpc.secure_channel(WORLD["address"], CREDENTIALS[certificate], OPTIONS) as channel:
        same = lambda data: data
        try:
            channel.unary_unary(path, same, same)(message, timeout=options.pop("timeout", 10), **options)
            status = "OK"
        except grpc.RpcError as error:
            status = error.code().name
    if status not in allowed:
        wrong.append(f"{what}: {status}")


ENROL = "/ginnel.v1.Enrolment/Enrol"
library("gzip", False, ENROL, b"x" * 1000, {"UNIMPLEMENTED"}, compression=grpc.Compression.Gzip)
library("deflate", False, ENROL, b"x" * 1000, {"UNIMPLEMENTED"}, compression=grpc.Compression.Deflate)
library("no message that it could be", False, ENROL, b"\xff" * 100, {"INTERNAL", "UNAUTHENTICATED", "INVALID_ARGUMENT"})
library("a message of 100 MiB", False, ENROL, bytes(100 << 20), {"OUT_OF_RANGE", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "INTERNAL", "UNKNOWN"})
library("no time", False, ENROL, b"", {"DEADLINE_EXCEEDED", "UNAUTHENTICATED"}, timeout=0.0001)
library("metadata of 64 KiB", False, ENROL, b"", {"RESOURCE_EXHAUSTED", "UNAVAILABLE", "INTERNAL", "UNKNOWN", "CANCELLED"}, metadata=[("x", "y" * 65_536)])
library("a call that there is not", False, "/ginnel.v1.Enrolment/Other", b"", {"PERMISSION_DENIED", "UNIMPLEMENTED"})
library("no service", True, "/", b"", {"PERMISSION_DENIED", "UNIMPLEMENTED"})
library("a session by a call of one message", True, WORLD["path"], b"", {"OK", "CANCELLED", "UNKNOWN", "INTERNAL", "UNAVAILABLE"})


def by_hand(what, certificate, fields, body, statuses):
    """A call by hand on a connection that has to outlive it."""
    global cases
    cases += 1
    c = Connection(certificate)
    c.send(raw(HEADERS, END_HEADERS, 1, block(fields)) + raw(DATA, END_STREAM, 1, body))
    answer = c.until(lambda frame: isinstance(frame, HeadersFrame) or getattr(frame, "error_code", None) is not None)
    if answer is None:
        wrong.append(f"{what}: no answer")
    elif not c.alive():
        wrong.append(f"{what}: the connection is gone, {c.goaway()}")
    c.close()


EMPTY = struct.pack(">BI", 0, 0)
PATHS = [(True, "/ginnel.v1.ClientLink/Roster"), (False, ENROL)]
for certificate, path in PATHS:
    for timeout in ["0n", "0S", "-1S", "1x", "", "S", "99999999H", "9223372036854775808n", "18446744073709551616n", "1.5S", "1S1S", " 1S", "٣S"]:
        fields = call(path) + [("grpc-timeout", timeout.encode("utf-8"))]
        by_hand(f"{path} with grpc-timeout {timeout!r}", certificate, fields, EMPTY, ())
    for encoding in ["gzip", "identity", "br", "", "gzip, gzip", "x" * 1000]:
        by_hand(f"{path} with grpc-encoding {encoding!r}", certificate, call(path, grpc_encoding=encoding), EMPTY, ())
    for content in ["application/grpc+json", "application/json", "text/plain", "application/grpcx", ""]:
        by_hand(f"{path} with content-type {content!r}", certificate, call(path, content_type=content), EMPTY, ())
    for what, body in {
        "a message that is said to be compressed": struct.pack(">BI", 1, 0),
        "a flag that there is not": struct.pack(">BI", 255, 0),
        "half a prefix": b"\0\0",
        "a message that breaks off": struct.pack(">BI", 0, 100) + b"x",
        "four gibibytes": struct.pack(">BI", 0, 0xFFFF_FFFF) + b"x",
        "two messages": EMPTY * 2,
        "none": b"",
    }.items():
        by_hand(f"{path}: {what}", certificate, call(path), body, ())
    for method in ["GET", "PUT", "OPTIONS", "X" * 100]:
        by_hand(f"{path} by {method[:10]}", certificate, call(path, **{":method": method}), EMPTY, ())

print(json.dumps({"cases": cases, "wrong": wrong}))
