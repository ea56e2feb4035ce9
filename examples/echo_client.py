"""An echo through the mix network, for plain scripts: ``python examples/echo_client.py thinclient.toml``."""

import sys

from katzentwist.thin.blocking import ThinClient

with ThinClient(sys.argv[1]) as client:
    doc = client.pki_document()
    node, queue = client.get_service(doc, "echo").to_destination()
    reply = client.blocking_send_message(b"Hello, mixnet!", node, queue)
    print(reply.rstrip(b"\0").decode())
