"""The thin client protocol: framed CBOR maps, without sockets (spec: client 8 to 12). Layer 1: pure functions.

A frame is a 4-byte big-endian length and one CBOR map, in which one key with a non-null value names the message. Both
sides write every key of their table in order, the others null, as the Go programs do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import cbor2

from katzentwist.sphinx import Geometry
from katzentwist.thin._cbor import FrameError, decode

__all__ = [
    "MAX_FRAME",
    "REQUESTS",
    "RESPONSES",
    "FrameBuffer",
    "FrameError",
    "decode_message",
    "encode_request",
    "encode_response",
    "frame",
    "parse_response",
]

MAX_FRAME: Final = 40 << 20
"""Longest message. Stops a prefix that announces gigabytes."""
PREFIX: Final = 4
APP_ID = TOKEN = MESSAGE_ID = QUERY_ID = SURB_ID = 16
NODE_ID: Final = 32

REQUEST_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "session_token": ("client_instance_token",),
    "thin_close": (),
    "send_message": ("id", "with_surb", "surbid", "destination_id_hash", "recipient_queue_id", "payload"),
    "new_keypair": (),
    "encrypt_read": (),
    "encrypt_write": (),
    "start_resending_encrypted_message": (),
    "cancel_resending_encrypted_message": (),
    "start_resending_copy_command": (),
    "cancel_resending_copy_command": (),
    "next_message_box_index": (),
    "get_message_box_index_counter": (),
    "get_pki_document": ("query_id", "epoch"),
    "get_directory_authorities": ("query_id",),
    "create_courier_envelopes_from_payload": (),
    "create_courier_envelopes_from_multi_payload": (),
    "create_courier_envelopes_from_tombstone_range": (),
    "voucher_mint": (),
    "voucher_induct": (),
    "voucher_open": (),
    "voucher_derive_stream": (),
}
"""In declaration order. The fields of the Pigeonhole and voucher requests are not read (spec: client 15)."""
REQUESTS: Final = tuple(REQUEST_FIELDS)
EXTENSIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "send_arq_message": REQUEST_FIELDS["send_message"],
    "cancel_arq_message": ("id",),
}
"""Ours (spec: client 14.2); never sent to a daemon that does not offer ``arq``."""
FEATURES: Final = ("arq",)

_QUERY = ("query_id",)
RESPONSE_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    "session_token_reply": ("app_id", "resumed"),
    "shutdown_event": (),
    "connection_status_event": (
        "is_connected",
        "err",
        "instance_token",
        "sphinx_geometry",
        "pigeonhole_geometry",
        "features",
    ),
    "new_pki_document_event": ("payload",),
    "message_sent_event": ("message_id", "surbid", "sent_at", "reply_eta", "err"),
    "message_reply_event": ("message_id", "surbid", "payload", "reply_index", "error_code"),
    "message_id_garbage_collected": ("message_id",),
    "new_keypair_reply": ("query_id", "write_cap", "read_cap", "first_message_index", "error_code"),
    "encrypt_read_reply": (
        "query_id",
        "message_ciphertext",
        "envelope_descriptor",
        "envelope_hash",
        "next_message_box_index",
        "error_code",
    ),
    "encrypt_write_reply": (
        "query_id",
        "message_ciphertext",
        "envelope_descriptor",
        "envelope_hash",
        "next_message_box_index",
        "error_code",
    ),
    "start_resending_encrypted_message_reply": (
        "query_id",
        "plaintext",
        "error_code",
        "courier_identity_hash",
        "courier_queue_id",
    ),
    "cancel_resending_encrypted_message_reply": ("query_id", "error_code"),
    "start_resending_copy_command_reply": ("query_id", "error_code"),
    "cancel_resending_copy_command_reply": ("query_id", "error_code"),
    "next_message_box_index_reply": ("query_id", "next_message_box_index", "error_code"),
    "get_message_box_index_counter_reply": ("query_id", "counter", "error_code"),
    "get_pki_document_reply": ("query_id", "payload", "epoch", "error_code"),
    "get_directory_authorities_reply": ("query_id", "authorities", "error_code"),
    "create_courier_envelopes_from_payload_reply": ("query_id", "envelopes", "next_dest_index", "error_code"),
    "create_courier_envelopes_from_multi_payload_reply": (
        "query_id",
        "envelopes",
        "buffer",
        "next_dest_indices",
        "error_code",
    ),
    "create_courier_envelopes_from_tombstone_range_reply": (
        "query_id",
        "envelopes",
        "buffer",
        "next_dest_index",
        "error_code",
    ),
    "voucher_mint_reply": (
        "query_id",
        "voucher",
        "voucher_payload",
        "voucher_write_cap",
        "voucher_read_cap",
        "voucher_secret_key",
        "voucher_public_key",
        "error_code",
    ),
    "voucher_induct_reply": (
        "query_id",
        "display_name",
        "mutated_message_read_cap",
        "sealed_reply",
        "voucher_write_cap",
        "voucher_read_cap",
        "salt",
        "error_code",
    ),
    "voucher_open_reply": ("query_id", "who_reply", "salt", "mutated_message_write_cap", "error_code"),
    "voucher_derive_stream_reply": ("query_id", "voucher_write_cap", "voucher_read_cap", "error_code"),
}
"""In declaration order, the fields in the order in which Go writes them."""
RESPONSES: Final = tuple(RESPONSE_FIELDS)
_OMITTED_IF_EMPTY: Final = {
    ("message_sent_event", "err"),
    ("message_reply_event", "reply_index"),
    ("connection_status_event", "features"),
}
_ZEROS: Final = {"counter": 0, "display_name": ""}
"""What an absent value is in an error reply, where it is not null."""
AUTHORITY_FIELDS: Final = (
    "identifier",
    "pki_signature_scheme",
    "wire_kem_scheme",
    "addresses",
    "identity_public_key_pem",
    "link_public_key_pem",
    "identity_key_hash",
)
_BYTES: Final = 2
_MAP: Final = 5
SERVICE_UNAVAILABLE: Final = 10
MAX_RETRIES: Final = 5


# Frames ---------------------------------------------------------------------------------------------------------------


def frame(message: bytes) -> bytes:
    """The message with its length before it."""
    return len(message).to_bytes(PREFIX, "big") + message


class FrameBuffer:
    """Cuts a stream into messages, one at a time, so that the reader may stop in between."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Bytes of the stream."""
        self._buffer += data

    def next(self) -> bytes | None:
        """The next message, None if it is not complete.

        :raises FrameError: a length of 0, or beyond :data:`MAX_FRAME`.
        """
        if len(self._buffer) < PREFIX:
            return None
        size = int.from_bytes(self._buffer[:PREFIX], "big")
        if not 0 < size <= MAX_FRAME:
            raise FrameError(f"a message of {size} bytes")
        end = PREFIX + size
        if len(self._buffer) < end:
            return None
        message = bytes(self._buffer[PREFIX:end])
        del self._buffer[:end]
        return message

    def __iter__(self) -> Iterator[bytes]:
        while (message := self.next()) is not None:
            yield message


# Writing --------------------------------------------------------------------------------------------------------------


def _encode(table: Mapping[str, tuple[str, ...]], name: str, values: Mapping[str, Any]) -> bytes:
    fields = {
        field: values.get(field, _ZEROS.get(field))
        for field in table[name]
        if not ((name, field) in _OMITTED_IF_EMPTY and values.get(field) in (None, "", ()))
    }
    return frame(cbor2.dumps({key: fields if key == name else None for key in table}))


def encode_response(name: str, /, **values: Any) -> bytes:
    """The frame of a response; absent fields are null, or left out where the page says so."""
    return _encode(RESPONSE_FIELDS, name, values)


def encode_document(name: str, /, payload: bytes, **values: Any) -> list[bytes]:
    """The same for a response with a *payload* of megabytes: the frame in parts, so that nothing is copied here."""
    parts = [_head(_MAP, len(RESPONSE_FIELDS))]
    for key, fields in RESPONSE_FIELDS.items():
        if key != name:
            parts += [cbor2.dumps(key), cbor2.dumps(None)]
            continue
        parts += [cbor2.dumps(key), _head(_MAP, len(fields))]
        for field in fields:
            value = [_head(_BYTES, len(payload)), payload] if field == "payload" else [cbor2.dumps(values.get(field))]
            parts += [cbor2.dumps(field), *value]
    return [sum(map(len, parts)).to_bytes(PREFIX, "big"), *parts]


def _head(major: int, size: int) -> bytes:
    """The head of a CBOR item of this major type."""
    number = cbor2.dumps(size)
    return bytes([number[0] | major << 5]) + number[1:]


def encode_request(name: str, /, **values: Any) -> bytes:
    """The frame of a request; absent fields are null."""
    if name in EXTENSIONS:
        return frame(cbor2.dumps({name: {field: values.get(field) for field in EXTENSIONS[name]}}))
    if REQUEST_FIELDS[name] or not values:
        return _encode(REQUEST_FIELDS, name, values)
    return frame(cbor2.dumps({key: values if key == name else None for key in REQUESTS}))


def sphinx_geometry(geometry: Geometry) -> dict[str, Any]:
    """The geometry map of a connection status (spec: client 11.2)."""
    table = geometry.to_toml()
    return {key: table[key] for key in GEOMETRY_KEYS}


GEOMETRY_KEYS: Final = (
    "PacketLength",
    "NrHops",
    "HeaderLength",
    "RoutingInfoLength",
    "PerHopRoutingInfoLength",
    "SURBLength",
    "SphinxPlaintextHeaderLength",
    "PayloadTagLength",
    "ForwardPayloadLength",
    "UserForwardPayloadLength",
    "NextNodeHopLength",
    "SPRPKeyMaterialLength",
    "NIKEName",
    "KEMName",
)


def pigeonhole_geometry(user_payload: int) -> dict[str, Any]:
    """The Pigeonhole geometry of a Sphinx geometry (spec: client 15.3).

    :param user_payload: UserForwardPayloadLength, at least 452.
    """
    return {
        "MaxPlaintextPayloadLength": user_payload - 451,
        "CourierQueryReadLength": user_payload,
        "CourierQueryWriteLength": user_payload,
        "CourierQueryReplyReadLength": user_payload - 282,
        "CourierQueryReplyWriteLength": user_payload - 282,
        "NIKEName": "CTIDH1024-X25519",
        "SignatureSchemeName": "Ed25519",
    }


# Reading --------------------------------------------------------------------------------------------------------------


def decode_message(message: bytes) -> dict[str, Any]:
    """The top-level map of a message.

    :raises FrameError: anything else.
    """
    value = decode(message)
    if not isinstance(value, dict):
        raise FrameError("not a message: no map")
    return value


def pick(top: dict[str, Any], names: tuple[str, ...]) -> tuple[str, Any] | None:
    """The first of *names*, in their order, with a non-null value; letter case counts only if both are there."""
    found = {name: top[name] for name in names if top.get(name) is not None}
    if not found:
        lowered = {k.lower(): v for k, v in reversed(top.items()) if isinstance(k, str) and v is not None}
        found = {name: lowered[name] for name in names if name in lowered}
    return next(iter(found.items()), None)


def parse_response(message: bytes) -> tuple[str, dict[str, Any]] | None:
    """(name, fields) of a response, None when it names none that is known. Fields are not checked.

    :raises FrameError: no map.
    """
    picked = pick(decode_message(message), RESPONSES)
    if picked is not None and not isinstance(picked[1], dict):
        raise FrameError(f"{picked[0]} is no map")
    return picked
