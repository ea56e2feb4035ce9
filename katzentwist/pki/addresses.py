"""The addresses that a node may publish (spec: pki 5.3)."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from katzentwist.errors import PKIError

HOST_PORT_SCHEMES = frozenset({"tcp", "tcp4", "tcp6", "quic", "ws"})
NODE_TRANSPORTS = ("tcp4", "tcp6", "quic")
"""The map keys through which nodes reach each other, in order of preference."""
CLIENT_TRANSPORTS = ("tcp", "tcp4", "tcp6", "quic", "ws", "onion")

_URL = re.compile(r"(?s)([A-Za-z][A-Za-z0-9+.-]*):(?://([^/?#]*))?(.*)")
_FORBIDDEN = re.compile(r"[\x00-\x20\x7f<>\"\\^`{|}]")
_PORT = re.compile(r"[0-9]*")


class Address(NamedTuple):
    """An address, split.

    :ivar host: without brackets; may be empty.
    :ivar port: digits, or empty.
    """

    scheme: str
    host: str
    port: str


def split(url: str) -> Address:
    """Scheme, host and port of an address; the colon of the port must be there.

    :raises PKIError: no URL of a known scheme, or no host:port in it.
    """
    match = _URL.fullmatch(url)
    if match is None and ":" in url.split("/", 1)[0]:
        raise PKIError(f"parse {url!r}: first path segment in URL cannot contain colon")
    scheme = match[1].lower() if match else ""
    if match is None or scheme not in HOST_PORT_SCHEMES | {"onion"}:
        raise PKIError(f"Unsupported listener scheme {url!r}: {scheme}")
    authority = match[2] or ""
    if _FORBIDDEN.search(authority):
        raise PKIError(f"parse {url!r}: invalid character in host name")
    host, colon, port = authority.rpartition("@")[2].rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif any(character in host for character in ":[]"):
        raise PKIError(f"invalid descriptor address {url!r}: too many colons in address")
    if not colon or port.endswith("]"):
        raise PKIError(f"invalid descriptor address {url!r}: missing port in address")
    if not _PORT.fullmatch(port):
        raise PKIError(f"parse {url!r}: invalid port {port!r} after host")
    return Address(scheme, host, port)


def check(addresses: Mapping[str, Sequence[str]], *, onion: bool) -> None:
    """Refuse what the authorities refuse.

    :param addresses: transport -> URLs. The URL's scheme counts, the map key is free text.
    :param onion: whether an onion address may be there (gateways only).
    :raises PKIError: nothing there, an empty list, or a bad URL.
    """
    if not addresses:
        raise PKIError("Descriptor missing Addresses")
    for transport, urls in addresses.items():
        if not urls:
            raise PKIError(f"Descriptor contains empty Address list for transport {transport!r}")
        for url in urls:
            _check_url(url, transport, onion)


def _check_url(url: str, transport: str, onion: bool) -> None:
    if not url.lower().startswith("onion:"):
        split(url)
    elif not onion:
        raise PKIError(f"Non-gateway published Transport {transport!r}")
