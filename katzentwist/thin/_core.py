"""A thin client without sockets and timers (spec: client 9, 16). The faces for Twisted and asyncio stand on it.

Bytes go in by :meth:`ThinCore.receive` and out by :meth:`ThinCore.data_to_send`. What an application waits for is an
:class:`Operation`; its end comes as a :class:`Finished` event.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, Final

import attrs

from katzentwist.randomness import IRandom
from katzentwist.thin import errors, events
from katzentwist.thin.protocol import (
    MAX_RETRIES,
    MESSAGE_ID,
    NODE_ID,
    QUERY_ID,
    SURB_ID,
    TOKEN,
    FrameBuffer,
    FrameError,
    encode_request,
    parse_response,
)
from katzentwist.thin.services import Geometry, ServiceDescriptor, decode_document, find_service, find_services

DOCUMENTS: Final = 6
"""The current document and those of five epochs before."""
REMEMBERED: Final = 10_000
"""SURB ids whose late replies are recognised."""
FIRST_PAUSE: Final = 1.0
LONGEST_PAUSE: Final = 60.0


@attrs.define(eq=False)
class Operation:
    """Something that is waited for.

    :ivar key: SURB id, message id or query id.
    :ivar survives: whether a resumed session may still bring the answer.
    """

    kind: str
    key: bytes = attrs.field(repr=False)
    survives: bool = False


@attrs.frozen
class Finished(events.Event):
    """An operation ended, with a value or an error. Not for applications."""

    operation: Operation
    value: Any = attrs.field(default=None, repr=False)
    error: Exception | None = None


@attrs.frozen
class Ready(events.Event):
    """The dialogue is over, requests may be sent. Not for applications."""

    resumed: bool


class ThinCore:
    """One thin client.

    :ivar late_replies: replies that came after their caller had given up.
    """

    def __init__(self, random: IRandom) -> None:
        self.random = random
        self.token = random.bytes(TOKEN)
        self.ready = False
        self.is_connected = False
        self.app_id = b""
        self.instance_token = b""
        self.features: tuple[str, ...] = ()
        self.geometry: Geometry | None = None
        self.pigeonhole_geometry: Mapping[str, Any] | None = None
        self.late_replies = 0
        self._documents: OrderedDict[int, dict[str, Any]] = OrderedDict()
        self._current: dict[str, Any] | None = None
        self._operations: dict[tuple[str, bytes], Operation] = {}
        self._abandoned: OrderedDict[bytes, None] = OrderedDict()
        self._buffer = FrameBuffer()
        self._out: list[bytes] = []
        self._open = False
        self._graceful = False
        self._restarted = False
        self._pause = FIRST_PAUSE

    # Connections ---------------------------------------------------------------------------------------------------

    def opened(self) -> None:
        """A connection to the daemon is there."""
        self._open, self.ready, self._graceful, self._restarted = True, False, False, False
        self._buffer = FrameBuffer()
        self._out = [encode_request("session_token", client_instance_token=self.token)]

    def closed(self, error: Exception | None, *, final: bool) -> list[events.Event]:
        """The connection ended.

        :param final: it will not be made again.
        """
        if not self._open:
            return self._lose(all_=True) if final else []
        self._open = self.ready = self.is_connected = False
        self._out = []
        happened: list[events.Event] = [
            events.DaemonDisconnected(is_graceful=self._graceful, error=None if self._graceful else error)
        ]
        return happened + self._lose(all_=final)

    def next_pause(self) -> float:
        """Seconds before the next attempt to connect again."""
        pause, self._pause = self._pause, min(2 * self._pause, LONGEST_PAUSE)
        return pause

    def say_close(self) -> None:
        """The last request: forget the session."""
        if self._open:
            self._out.append(encode_request("thin_close"))

    def data_to_send(self) -> bytes:
        """Bytes for the daemon; each is returned once."""
        data = b"".join(self._out)
        self._out.clear()
        return data

    def _lose(self, *, all_: bool) -> list[events.Event]:
        lost = [o for o in self._operations.values() if all_ or not o.survives]
        for operation in lost:
            del self._operations[operation.kind, operation.key]
        return [
            Finished(o, error=errors.LostError("the connection to the daemon ended before the answer")) for o in lost
        ]

    # Requests ------------------------------------------------------------------------------------------------------

    def send(self, payload: bytes | str, node: bytes, queue: bytes, surb_id: bytes | None) -> None:
        """A message, with a SURB unless *surb_id* is None.

        :raises NotSentError: it can not be sent now.
        """
        self._check_online()
        body = _body(payload, node, queue)
        largest = self.geometry.UserForwardPayloadLength if self.geometry is not None else None
        if surb_id is None and largest is not None and len(body) > largest:
            # The daemon never answers a message without SURB, so it would be lost without a word.
            raise errors.RefusedError(f"message too large: {len(body)} > {largest}")
        if surb_id is not None and len(surb_id) != SURB_ID:
            raise errors.NotSentError(f"a SURB id has {SURB_ID} bytes")
        self._out.append(
            encode_request(
                "send_message",
                with_surb=surb_id is not None,
                surbid=surb_id,
                destination_id_hash=node,
                recipient_queue_id=queue,
                payload=body,
            )
        )

    def send_reliable(self, message_id: bytes, payload: bytes | str, node: bytes, queue: bytes) -> None:
        """A message that the daemon sends again until a reply comes.

        :raises NotSentError: it can not be sent now, or the daemon does not offer this.
        :raises RefusedError: the reply to another one of this id is waited for.
        """
        self._check_online()
        if "arq" not in self.features:
            raise errors.NotSentError("this daemon offers no reliable messages")
        if len(message_id) != MESSAGE_ID:
            raise errors.NotSentError(f"a message id has {MESSAGE_ID} bytes")
        if ("send_arq_message", message_id) in self._operations:
            raise errors.RefusedError("message id already in use")  # the daemon's answer would end the other one
        self._out.append(
            encode_request(
                "send_arq_message",
                id=message_id,
                with_surb=True,
                destination_id_hash=node,
                recipient_queue_id=queue,
                payload=_body(payload, node, queue),
            )
        )

    def cancel_reliable(self, message_id: bytes) -> None:
        """Give a reliable message up.

        :raises NotSentError: there is no connection to the daemon.
        """
        self._check_ready()
        self._out.append(encode_request("cancel_arq_message", id=message_id))

    def query(self, name: str, **values: Any) -> Operation:
        """A question to the daemon.

        :raises NotSentError: there is no connection to it.
        """
        self._check_ready()
        query_id = self.random.bytes(QUERY_ID)
        self._out.append(encode_request(name, query_id=query_id, **values))
        return self._wait_for(Operation(name, query_id))

    def wait_for_reply(self, surb_id: bytes) -> Operation:
        """Until the reply to a message comes; call it before :meth:`send`."""
        return self._wait_for(Operation("send_message", surb_id, survives=True))

    def wait_for_reliable(self, message_id: bytes) -> Operation:
        """Until the reply to a reliable message comes."""
        return self._wait_for(Operation("send_arq_message", message_id, survives=True))

    def _wait_for(self, operation: Operation) -> Operation:
        self._operations[operation.kind, operation.key] = operation
        self._abandoned.pop(operation.key, None)  # an id may be used again
        return operation

    def abandon(self, operation: Operation) -> None:
        """Nobody waits any more; a late answer is counted and dropped."""
        if self._operations.pop((operation.kind, operation.key), None) is not None:
            self._abandoned[operation.key] = None
            if len(self._abandoned) > REMEMBERED:
                self._abandoned.popitem(last=False)

    def _check_ready(self) -> None:
        if not self.ready:
            raise errors.NotSentError("not connected to the client daemon")

    def _check_online(self) -> None:
        self._check_ready()
        if not self.is_connected:
            raise errors.ThinClientOfflineError("cannot send message in offline mode - daemon not connected to mixnet")

    # Documents -----------------------------------------------------------------------------------------------------

    def pki_document(self) -> dict[str, Any] | None:
        """The current document, None if there is none."""
        return self._current

    def pki_document_for_epoch(self, epoch: int) -> dict[str, Any] | None:
        """The document of an epoch of which one is cached, else the current one."""
        return self._documents.get(epoch, self._current)

    def get_services(self, *given: Any) -> list[ServiceDescriptor]:
        """``get_services(capability)`` or ``get_services(document, capability)``.

        :raises ServiceNotFoundError: nobody offers it.
        """
        document, capability = self._document_and_name(given)
        return find_services(capability, document)

    def get_service(self, *given: Any) -> ServiceDescriptor:
        """``get_service(name)`` or ``get_service(document, name)``: one of them at random.

        :raises ServiceNotFoundError: nobody offers it.
        """
        document, name = self._document_and_name(given)
        return find_service(name, document, self.random.below)

    def _document_and_name(self, given: tuple[Any, ...]) -> tuple[Mapping[str, Any], str]:
        if not 1 <= len(given) <= 2:
            raise TypeError("give the name of the service, or a document and the name")
        document = given[0] if len(given) == 2 else None
        return document or self._current or {}, str(given[-1])

    # Responses -----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> list[events.Event]:
        """Bytes of the daemon.

        :raises FrameError: it does not speak the protocol.
        """
        self._buffer.feed(data)
        happened: list[events.Event] = []
        for message in self._buffer:
            response = parse_response(message)
            if response is not None:
                try:
                    happened += self._response(*response)
                except (KeyError, TypeError, ValueError) as e:
                    raise FrameError(f"{response[0]} lacks a field or has a wrong one: {e}") from e
        return happened

    def _response(self, name: str, fields: dict[str, Any]) -> list[events.Event]:
        handlers = {
            "session_token_reply": self._session,
            "shutdown_event": self._shutdown,
            "connection_status_event": self._status,
            "new_pki_document_event": self._document,
            "message_sent_event": self._sent,
            "message_reply_event": self._reply,
            "message_id_garbage_collected": self._collected,
        }
        handler = handlers.get(name)
        return handler(fields) if handler is not None else self._answer(name, fields)

    def _shutdown(self, _fields: dict[str, Any]) -> list[events.Event]:
        self._graceful = True
        return [events.ShutdownEvent()]

    def _collected(self, fields: dict[str, Any]) -> list[events.Event]:
        return [events.MessageIDGarbageCollected(message_id=fields["message_id"])]

    def _session(self, fields: dict[str, Any]) -> list[events.Event]:
        resumed = bool(fields["resumed"])
        self.app_id, self.ready, self._pause = fields["app_id"], True, FIRST_PAUSE
        lost = [] if resumed and not self._restarted else self._lose(all_=True)
        return [*lost, Ready(resumed)]

    def _status(self, fields: dict[str, Any]) -> list[events.Event]:
        event = events.ConnectionStatusEvent(
            is_connected=bool(fields["is_connected"]),
            err=fields.get("err"),
            instance_token=fields.get("instance_token") or b"",
            sphinx_geometry=fields.get("sphinx_geometry"),
            pigeonhole_geometry=fields.get("pigeonhole_geometry"),
            features=tuple(fields.get("features") or ()),
        )
        if self.instance_token and event.instance_token != self.instance_token:
            self._restarted = True
        self.is_connected, self.instance_token = event.is_connected, event.instance_token
        self.features = event.features
        if event.sphinx_geometry is not None:
            self.geometry = Geometry(**event.sphinx_geometry)
        self.pigeonhole_geometry = event.pigeonhole_geometry
        return [event]

    def _document(self, fields: dict[str, Any]) -> list[events.Event]:
        payload = fields["payload"]
        if payload is None:
            return [events.NewPKIDocumentEvent(payload=None)]
        document = decode_document(payload)
        self._current = self._documents[int(document["Epoch"])] = document
        while len(self._documents) > DOCUMENTS:
            self._documents.popitem(last=False)
        return [events.NewPKIDocumentEvent(payload=payload, document=document)]

    def _sent(self, fields: dict[str, Any]) -> list[events.Event]:
        event = events.MessageSentEvent(
            message_id=fields.get("message_id"),
            surbid=fields.get("surbid"),
            sent_at=int(fields.get("sent_at") or 0),
            reply_eta=int(fields.get("reply_eta") or 0),
            err=fields.get("err") or "",
        )
        operation = self._find(event) if event.err else None
        if operation is None:
            return [event]
        return [event, self._finish(operation, error=errors.RefusedError(event.err))]

    def _reply(self, fields: dict[str, Any]) -> list[events.Event]:
        event = events.MessageReplyEvent(
            message_id=fields.get("message_id"),
            surbid=fields.get("surbid"),
            payload=fields.get("payload") or b"",
            error_code=int(fields.get("error_code") or 0),
            reply_index=fields.get("reply_index"),
        )
        if (event.surbid or b"") in self._abandoned or (event.message_id or b"") in self._abandoned:
            self.late_replies += 1
            return []
        operation = self._find(event)
        if operation is None:
            return [event]
        return [event, self._finish(operation, event.payload, _reply_error(event.error_code))]

    def _find(self, event: events.MessageSentEvent | events.MessageReplyEvent) -> Operation | None:
        by_message = self._operations.get(("send_arq_message", event.message_id or b""))
        return by_message or self._operations.get(("send_message", event.surbid or b""))

    def _answer(self, name: str, fields: dict[str, Any]) -> list[events.Event]:
        operation = self._operations.get((name.removesuffix("_reply"), fields["query_id"]))
        if operation is None:
            return []
        code = int(fields.get("error_code") or 0)
        error = errors.RefusedError(errors.error_text(code), code) if code else None
        return [self._finish(operation, fields, error)]

    def _finish(self, operation: Operation, value: Any = None, error: Exception | None = None) -> Finished:
        del self._operations[operation.kind, operation.key]
        return Finished(operation, value, error)

    # Ids -----------------------------------------------------------------------------------------------------------

    def new_surb_id(self) -> bytes:
        """16 random bytes."""
        return self.random.bytes(SURB_ID)

    def new_message_id(self) -> bytes:
        """16 random bytes."""
        return self.random.bytes(MESSAGE_ID)


def _body(payload: bytes | str, node: bytes, queue: bytes) -> bytes:
    """What goes into the frame; the daemon hangs up on a destination of a wrong length, and on text for bytes."""
    if isinstance(queue, str):
        raise errors.NotSentError(f"a queue is bytes, such as b'+echo', and not {queue!r}")
    if isinstance(node, str) or len(node) != NODE_ID:
        raise errors.NotSentError(f"a destination is the {NODE_ID}-byte hash of a node's identity key")
    return payload.encode() if isinstance(payload, str) else bytes(payload)


def _reply_error(code: int) -> Exception | None:
    if not code:
        return None
    if code == MAX_RETRIES:
        return errors.LostError(errors.error_text(code))
    return errors.RefusedError(errors.error_text(code), code)
