"""An echo through the mix network with asyncio: ``python examples/echo_client_asyncio.py thinclient.toml``."""

import asyncio
import sys

from katzentwist.thin.aio import ThinClient


async def main(config: str) -> None:
    """Send, wait, print."""
    client = ThinClient(config)
    await client.start()
    node, queue = client.get_service("echo").to_destination()
    reply = await client.blocking_send_message(b"Hello, mixnet!", node, queue)
    print(reply.rstrip(b"\0").decode())
    await client.stop()


asyncio.run(main(sys.argv[1]))
