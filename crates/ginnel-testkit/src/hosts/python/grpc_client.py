"""Makes a call of every kind on one connection, some of them at the same time."""

import hashlib
import random
import sys
from concurrent import futures

import grpc

random.seed(2)
channel = grpc.insecure_channel(sys.argv[1])


def method(name):
    return f"/acme.Probe/{name}"


payload = random.randbytes(3 << 20)
answer, call = channel.unary_unary(method("Unary")).with_call(payload, timeout=30)
assert answer == payload[::-1], "another answer"
assert dict(call.trailing_metadata())["length"] == str(len(payload)), "other trailers"

try:
    channel.unary_unary(method("Fail"))(b"x", timeout=30)
    raise AssertionError("a failed call succeeded")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    assert error.details() == "nothing of this name", error

pieces = [random.randbytes(64 << 10) for _ in range(64)]
digest = channel.stream_unary(method("Up"))(iter(pieces), timeout=30)
assert digest == hashlib.sha256(b"".join(pieces)).digest(), "another hash"


def download(count):
    messages = list(channel.unary_stream(method("Down"))(str(count).encode(), timeout=60))
    return messages == [number.to_bytes(4, "big") * 256 for number in range(count)]


with futures.ThreadPoolExecutor(max_workers=8) as pool:
    assert all(pool.map(download, [500] * 8)), "other messages"


def talk():
    said = b"hello"
    for _ in range(100):
        yield said


assert list(channel.stream_stream(method("Chat"))(talk(), timeout=30)) == [b"hello too"] * 100, "other words"

try:
    channel.unary_unary(method("Slow"))(b"x", timeout=0.2)
    raise AssertionError("a late call succeeded")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.DEADLINE_EXCEEDED, error
assert channel.unary_unary(method("WasCancelled"))(b"x", timeout=30) == b"yes", "the server was not told"
channel.close()
print("every kind of call")
