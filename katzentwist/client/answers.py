"""What applications are told: the frames of answers and events (spec: client 11 to 13); documents are in frames.py."""

from __future__ import annotations

import math
from typing import Any

from katzentwist.client._core import ClientCore
from katzentwist.config.common import Authority
from katzentwist.crypto import kem, keys, sign
from katzentwist.thin import protocol
from katzentwist.thin.protocol import encode_response
from katzentwist.thin.requests import GetAuthorities, SendMessage


class Answers:
    """Makes frames of what the client knows.

    :param instance: tells applications whether the daemon was restarted.
    """

    def __init__(self, core: ClientCore, instance: bytes) -> None:
        self._core, self._instance = core, instance

    # Events --------------------------------------------------------------------------------------------------------

    def status(self, connected: bool) -> bytes:
        """The connection status, with both geometries."""
        geometry = self._core.config.geometry
        return encode_response(
            "connection_status_event",
            is_connected=connected,
            instance_token=self._instance,
            sphinx_geometry=protocol.sphinx_geometry(geometry),
            pigeonhole_geometry=protocol.pigeonhole_geometry(geometry.user_forward_payload_length),
            features=list(protocol.FEATURES),
        )

    def sent(self, request: SendMessage, surb_id: bytes | None, reply_eta: float, error: str | None = None) -> bytes:
        """A message left, or why it did not.

        :param reply_eta: seconds.
        """
        return encode_response(
            "message_sent_event",
            message_id=request.id,
            surbid=surb_id,
            sent_at=math.floor(self._core.unix_time()),
            reply_eta=round(reply_eta * 1e9),
            err=error,
        )

    # Answers -------------------------------------------------------------------------------------------------------

    def authorities(self, request: GetAuthorities) -> bytes:
        """Those of the configuration."""
        known = [authority_entry(a) for a in self._core.config.authorities]
        return encode_response(
            "get_directory_authorities_reply",
            query_id=request.query_id,
            authorities=known or None,
            error_code=0 if known else protocol.SERVICE_UNAVAILABLE,
        )


def reply(message_id: bytes | None, surb_id: bytes | None, payload: bytes, error_code: int = 0) -> bytes:
    """The reply to a message, or the error in place of one."""
    return encode_response(
        "message_reply_event", message_id=message_id, surbid=surb_id, payload=payload, error_code=error_code
    )


def authority_entry(authority: Authority) -> dict[str, Any]:
    """An authority as applications see it (spec: client 11.2)."""
    link = authority.link_key
    values: dict[str, Any] = {
        "identifier": authority.identifier,
        "pki_signature_scheme": authority.signature_scheme,
        "wire_kem_scheme": authority.wire_kem,
        "addresses": [a.url for a in authority.addresses] or None,
        "identity_public_key_pem": keys.encode_public(sign.by_name(authority.signature_scheme), authority.identity_key),
        "link_public_key_pem": keys.encode_public(kem.by_name(authority.wire_kem), link) if link else "",
        "identity_key_hash": authority.id,
    }
    return {field: values[field] for field in protocol.AUTHORITY_FIELDS}
