"""Gives back every message, and sends a numbered feed of its own on the same connection."""

import asyncio
import json
import sys

import websockets

FEED = 1000


async def feed(socket):
    for number in range(FEED):
        await socket.send(f"feed {number}")


async def serve(socket, *_path):
    feeding = asyncio.create_task(feed(socket))
    async for message in socket:
        await socket.send(message)
    await feeding


async def main():
    async with websockets.serve(serve, "127.0.0.1", 0, compression=None, max_size=None) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        print(json.dumps({"message": "listening", "address": f"127.0.0.1:{port}"}), file=sys.stderr, flush=True)
        await asyncio.Future()


asyncio.run(main())
