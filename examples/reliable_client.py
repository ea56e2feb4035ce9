"""A message that is sent again until its reply comes: ``python examples/reliable_client.py thinclient.toml``."""

import sys

from katzentwist.thin.blocking import ThinClient

with ThinClient(sys.argv[1]) as client:
    node, queue = client.get_service("echo").to_destination()
    message_id = client.new_message_id()
    reply = client.blocking_send_reliable_message(message_id, b"again and again", node, queue)
    print(reply.rstrip(b"\0").decode())
