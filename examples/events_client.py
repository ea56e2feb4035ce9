"""All events of a thin client, by callbacks and by a stream: ``python examples/events_client.py thinclient.toml``."""

import sys

from katzentwist.thin import MessageReplyEvent, MessageSentEvent
from katzentwist.thin.blocking import ThinClient


# Define callback functions
def on_new_document(doc):
    """A new view of the network."""
    print("document of epoch", doc["Epoch"])


def on_message_reply(reply):
    """A reply of a service."""
    print("reply:", reply.payload.rstrip(b"\0"))


def on_connection_status(status):
    """Online, or not."""
    print("connected:", status.is_connected)


# Create client with callbacks
thin_client = ThinClient(
    sys.argv[1],
    on_new_document=on_new_document,
    on_message_reply=on_message_reply,
    on_connection_status=on_connection_status,
)

thin_client.start()
events = thin_client.event_sink()
doc = thin_client.pki_document()
service_descriptor = thin_client.get_service(doc, "echo")
node, queue = service_descriptor.to_destination()
surb_id = thin_client.new_surb_id()
thin_client.send_message(surb_id, b"which reply is which?", node, queue)
for event in events:
    if isinstance(event, MessageSentEvent) and event.surbid == surb_id:
        print("sent; a reply may come in", event.reply_eta / 1e9, "s")
    if isinstance(event, MessageReplyEvent) and event.surbid == surb_id:
        break
thin_client.stop()
