"""What happens at a thin client (spec: client 16.3). Fields have their wire names, as attributes and in brackets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs


class Event:
    """Base of all events.

    >>> event = ConnectionStatusEvent(is_connected=True)
    >>> event.is_connected, event["is_connected"], event.get("nothing")
    (True, True, None)
    """

    __slots__ = ()

    def __getitem__(self, field: str) -> Any:
        try:
            return getattr(self, field)
        except AttributeError:
            raise KeyError(field) from None

    def get(self, field: str, default: Any = None) -> Any:
        """The field, or *default*."""
        return getattr(self, field, default)


@attrs.frozen(kw_only=True)
class ShutdownEvent(Event):
    """The daemon is going to end."""


@attrs.frozen(kw_only=True)
class ConnectionStatusEvent(Event):
    """Whether the daemon has a connection to the mix network."""

    is_connected: bool
    err: Any = None
    instance_token: bytes = attrs.field(default=b"", repr=False)
    sphinx_geometry: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    pigeonhole_geometry: Mapping[str, Any] | None = attrs.field(default=None, repr=False)
    features: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class NewPKIDocumentEvent(Event):
    """The document of a new epoch.

    :ivar payload: its CBOR; None when the daemon has none yet.
    :ivar document: the decoded map, or None.
    """

    payload: bytes | None = attrs.field(repr=False)
    document: Mapping[str, Any] | None = attrs.field(default=None, repr=False)


@attrs.frozen(kw_only=True)
class MessageSentEvent(Event):
    """A message was handed to the gateway, or with *err* it was not.

    :ivar sent_at: Unix time in seconds.
    :ivar reply_eta: nanoseconds until a reply may be expected.
    """

    message_id: bytes | None
    surbid: bytes | None
    sent_at: int
    reply_eta: int
    err: str = ""


@attrs.frozen(kw_only=True)
class MessageReplyEvent(Event):
    """A reply; *payload* is padded with zeros to the length of the geometry."""

    message_id: bytes | None
    surbid: bytes | None
    payload: bytes = attrs.field(repr=False)
    error_code: int = 0
    reply_index: int | None = None


@attrs.frozen(kw_only=True)
class MessageIDGarbageCollected(Event):
    """The daemon knows nothing of this message id any more."""

    message_id: bytes


@attrs.frozen(kw_only=True)
class DaemonDisconnected(Event):
    """The connection to the daemon ended.

    :ivar is_graceful: it said so before.
    """

    is_graceful: bool
    error: Exception | None = None


CALLBACKS: Final[Mapping[type[Event], tuple[str, ...]]] = {
    ShutdownEvent: ("on_shutdown",),
    ConnectionStatusEvent: ("on_connection_status",),
    NewPKIDocumentEvent: ("on_new_document", "on_new_pki_document"),
    MessageSentEvent: ("on_message_sent",),
    MessageReplyEvent: ("on_message_reply",),
    MessageIDGarbageCollected: ("on_message_id_garbage_collected",),
    DaemonDisconnected: ("on_daemon_disconnected",),
}
"""The callbacks that hear of each event. ``on_new_document`` gets the decoded document, the others the event."""
