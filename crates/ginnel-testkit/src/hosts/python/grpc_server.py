"""A gRPC service with a call of every kind. Messages are bytes, so that nothing has to be generated."""

import hashlib
import json
import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    context.set_trailing_metadata([("length", str(len(request)))])
    return request[::-1]


def fail(request, context):
    context.abort(grpc.StatusCode.NOT_FOUND, "nothing of this name")


def down(request, context):
    for number in range(int(request)):
        yield number.to_bytes(4, "big") * 256


def up(requests, context):
    digest = hashlib.sha256()
    for request in requests:
        digest.update(request)
    return digest.digest()


def chat(requests, context):
    for request in requests:
        yield request + b" too"


def slow(request, context):
    context.add_callback(cancelled.set)
    cancelled.wait(30)
    return b""


def was_cancelled(request, context):
    return b"yes" if cancelled.wait(10) else b"no"


handlers = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fail": grpc.unary_unary_rpc_method_handler(fail),
    "Down": grpc.unary_stream_rpc_method_handler(down),
    "Up": grpc.stream_unary_rpc_method_handler(up),
    "Chat": grpc.stream_stream_rpc_method_handler(chat),
    "Slow": grpc.unary_unary_rpc_method_handler(slow),
    "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
}
server = grpc.server(futures.ThreadPoolExecutor(max_workers=32))
server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("acme.Probe", handlers)])
port = server.add_insecure_port("127.0.0.1:0")
server.start()
print(json.dumps({"message": "listening", "address": f"127.0.0.1:{port}"}), file=sys.stderr, flush=True)
server.wait_for_termination()
