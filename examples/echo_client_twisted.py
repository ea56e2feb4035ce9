"""An echo through the mix network with Twisted: ``python examples/echo_client_twisted.py thinclient.toml``."""

import sys

from twisted.internet.defer import Deferred
from twisted.internet.task import react

from katzentwist.thin import ThinClient


async def main(reactor, config):
    """Send, wait, print."""
    client = ThinClient(config, reactor)
    await client.start()
    node, queue = client.get_service("echo").to_destination()
    reply = await client.blocking_send_message(b"Hello, mixnet!", node, queue)
    print(reply.rstrip(b"\0").decode())
    await client.stop()


react(lambda reactor, config: Deferred.fromCoroutine(main(reactor, config)), sys.argv[1:])
