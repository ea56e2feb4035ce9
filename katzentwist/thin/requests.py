"""Requests of applications as the daemon reads them: one class each, their fields checked (spec: client 9, 10, 15)."""

from __future__ import annotations

from typing import Any, Final

import attrs

from katzentwist.thin.protocol import (
    EXTENSIONS,
    MESSAGE_ID,
    QUERY_ID,
    REQUESTS,
    SERVICE_UNAVAILABLE,
    SURB_ID,
    TOKEN,
    FrameError,
    decode_message,
    encode_response,
    pick,
)

PROPAGATION_ERROR: Final = 13


class Fields:
    """The typed fields of one message."""

    def __init__(self, name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise FrameError(f"{name} is no map")
        self._name, self._value = name, value

    def get(self, field: str) -> Any:
        """As it is; None if absent."""
        value = self._value.get(field)
        if value is None and field not in self._value:
            for key in self._value:
                if isinstance(key, str) and key.lower() == field:
                    return self._value[key]
        return value

    def _typed(self, field: str, kind: type, default: Any) -> Any:
        value = self.get(field)
        if value is None:
            return default
        if type(value) is not kind:
            raise FrameError(f"{self._name}.{field} has a wrong type")
        return value

    def blob(self, field: str) -> bytes | None:
        """Bytes or null."""
        value: bytes | None = self._typed(field, bytes, None)
        return value

    def exact(self, field: str, size: int) -> bytes | None:
        """Bytes of exactly *size*, or null."""
        value = self.blob(field)
        if value is not None and len(value) != size:
            raise FrameError(f"{self._name}.{field} has {len(value)} bytes, not {size}")
        return value

    def needed(self, field: str, size: int) -> bytes:
        """Bytes of exactly *size*."""
        value = self.exact(field, size)
        if value is None:
            raise FrameError(f"{self._name}.{field} is missing")
        return value

    def boolean(self, field: str) -> bool:
        """A bool; false if absent."""
        return bool(self._typed(field, bool, False))

    def integer(self, field: str) -> int:
        """An integer of at most 64 bits; 0 if absent."""
        value: int = self._typed(field, int, 0)
        if not -(2**63) <= value < 2**64:
            raise FrameError(f"{self._name}.{field} does not fit")
        return value

    def unsigned(self, field: str) -> int:
        """An unsigned integer; 0 if absent."""
        value = self.integer(field)
        if value < 0:
            raise FrameError(f"{self._name}.{field} is negative")
        return value


@attrs.frozen(kw_only=True)
class SessionToken:
    """Names the session that this connection belongs to."""

    token: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class ThinClose:
    """The application ends for good."""


@attrs.frozen(kw_only=True)
class SendMessage:
    """A message for a service, with or without SURB; *arq* for our ``send_arq_message``."""

    id: bytes | None = attrs.field(repr=False)
    with_surb: bool
    surb_id: bytes | None = attrs.field(repr=False)
    destination: bytes | None
    recipient: bytes | None = attrs.field(repr=False)
    payload: bytes = attrs.field(repr=False)
    arq: bool = False


@attrs.frozen(kw_only=True)
class CancelArq:
    """Give up an ARQ message."""

    id: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class GetDocument:
    """Asks for a signed document; epoch 0 is the current one."""

    query_id: bytes = attrs.field(repr=False)
    epoch: int


@attrs.frozen(kw_only=True)
class GetAuthorities:
    """Asks for the configured authorities."""

    query_id: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Unsupported:
    """A Pigeonhole or voucher request; *query_id* is None when nobody could match an answer."""

    name: str
    query_id: bytes | None = attrs.field(repr=False)


Request = SessionToken | ThinClose | SendMessage | CancelArq | GetDocument | GetAuthorities | Unsupported


def parse_request(message: bytes) -> Request | None:
    """The request of a message, None when it names none that is known.

    :raises FrameError: no map, a field of a wrong type, an identifier of a wrong length.
    """
    picked = pick(decode_message(message), (*REQUESTS, *EXTENSIONS))
    if picked is None:
        return None
    name, value = picked
    fields = Fields(name, value)
    request: Request
    match name:
        case "session_token":
            request = SessionToken(token=fields.needed("client_instance_token", TOKEN))
        case "thin_close":
            request = ThinClose()
        case "send_message" | "send_arq_message":
            surb_id = fields.blob("surbid")
            # A surbid or destination of another length gets an answer of its own, as one that is missing or unknown.
            request = SendMessage(
                id=fields.exact("id", MESSAGE_ID),
                with_surb=fields.boolean("with_surb"),
                surb_id=surb_id if surb_id is not None and len(surb_id) == SURB_ID else None,
                destination=fields.blob("destination_id_hash"),
                recipient=fields.blob("recipient_queue_id"),
                payload=fields.blob("payload") or b"",
                arq=name == "send_arq_message",
            )
        case "cancel_arq_message":
            request = CancelArq(id=fields.needed("id", MESSAGE_ID))
        case "get_pki_document":
            request = GetDocument(query_id=fields.needed("query_id", QUERY_ID), epoch=fields.unsigned("epoch"))
        case "get_directory_authorities":
            request = GetAuthorities(query_id=fields.needed("query_id", QUERY_ID))
        case _:
            query = fields.get("query_id")
            usable = isinstance(query, bytes) and len(query) == QUERY_ID
            request = Unsupported(name=name, query_id=query if usable else None)
    return request


def refuse_unsupported(request: Unsupported) -> bytes | None:
    """The frame that makes the caller of a Pigeonhole or voucher request fail cleanly (spec: client 15.2)."""
    if request.query_id is None:
        return None
    resending = request.name in ("start_resending_encrypted_message", "start_resending_copy_command")
    code = PROPAGATION_ERROR if resending else SERVICE_UNAVAILABLE
    return encode_response(f"{request.name}_reply", query_id=request.query_id, error_code=code)
