"""Documents and services as applications see them (spec: client 11.2, 16.1)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import cbor2

from katzentwist.thin.errors import ServiceNotFoundError
from katzentwist.thin.protocol import GEOMETRY_KEYS


@attrs.frozen(init=False)
class Geometry:
    """The Sphinx geometry of the network; its fields have their wire names.

    :ivar UserForwardPayloadLength: bytes of the largest payload.
    """

    fields: Mapping[str, Any]

    def __init__(self, **fields: Any) -> None:
        self.__attrs_init__(fields)

    def __getattr__(self, name: str) -> Any:
        if name in GEOMETRY_KEYS or name in self.fields:
            return self.fields.get(name)
        raise AttributeError(name)


@attrs.frozen
class ServiceDescriptor:
    """A service on a node.

    :ivar recipient_queue_id: the service's endpoint.
    :ivar mix_descriptor: the decoded descriptor of the node.
    """

    recipient_queue_id: bytes
    mix_descriptor: Mapping[str, Any] = attrs.field(repr=False)

    def to_destination(self) -> tuple[bytes, bytes]:
        """(hash of the node's identity key, queue id): what sending needs."""
        return blake2_256_sum(self.mix_descriptor["IdentityKey"]), self.recipient_queue_id


def blake2_256_sum(data: bytes) -> bytes:
    """BLAKE2b with 32 bytes of output.

    >>> blake2_256_sum(b"")[:4].hex()
    '0e5751c0'
    """
    return hashlib.blake2b(data, digest_size=32).digest()


def decode_document(payload: bytes) -> dict[str, Any]:
    """The map of a document; descriptors stay encoded, as the published libraries have them.

    :raises ValueError: it is no CBOR map.
    """
    try:
        document = cbor2.loads(payload)
    except Exception as e:  # cbor2 names no common root for all it may raise
        raise ValueError(f"the document is no CBOR: {e}") from e
    if not isinstance(document, dict):
        raise ValueError("the document is no map")
    return document


def find_services(capability: str, document: Mapping[str, Any]) -> list[ServiceDescriptor]:
    """All nodes that offer *capability*.

    :raises ServiceNotFoundError: there is none.
    """
    found = []
    for raw in document.get("ServiceNodes") or ():
        node = cbor2.loads(raw)
        offered = (node.get("Kaetzchen") or {}).get(capability)
        if offered is not None:
            found.append(ServiceDescriptor(str(offered["endpoint"]).encode(), node))
    if not found:
        raise ServiceNotFoundError(capability)
    return found


def find_service(capability: str, document: Mapping[str, Any], below: Callable[[int], int]) -> ServiceDescriptor:
    """One of them, uniformly at random."""
    found = find_services(capability, document)
    return found[below(len(found))]
