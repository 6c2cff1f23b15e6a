"""Sends messages of every length while it takes the server's feed, pings, and closes as the protocol says."""

import asyncio
import random
import sys

import websockets

FEED = 1000
# The lengths at which the frame's head changes its form, and one message that is larger than any window.
LENGTHS = [0, 1, 125, 126, 127, 65535, 65536, 65537, 8 << 20, 3]


async def main(address):
    random.seed(1)
    sent = [random.randbytes(length) for length in LENGTHS for _ in range(3)]
    seen, feed = [], []
    async with websockets.connect(f"ws://{address}/", compression=None, max_size=None) as socket:

        async def send():
            for message in sent:
                await socket.send(message)

        sending = asyncio.create_task(send())
        while len(seen) < len(sent) or len(feed) < FEED:
            message = await socket.recv()
            (feed if isinstance(message, str) else seen).append(message)
        await sending
        await asyncio.wait_for(await socket.ping(), 10)
        await socket.close()
        code = socket.close_code
    assert seen == sent, "other messages came back"
    assert feed == [f"feed {number}" for number in range(FEED)], "the feed has gaps"
    print(f"{len(seen)} echoes, {len(feed)} of the feed, closed with {code}")


asyncio.run(main(sys.argv[1]))
