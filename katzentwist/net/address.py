"""Addresses are URLs: ``scheme://host:port`` (spec: link 2.1)."""

from __future__ import annotations

import ipaddress
import re

import attrs

from katzentwist.errors import ConfigError

SCHEMES = ("tcp", "tcp4", "tcp6", "quic", "onion")
"""Schemes that a configuration may name."""
DEFAULT_NODE_PORT = 3219
DEFAULT_AUTHORITY_PORT = 62472

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[^\]]*\]|[^:/?#\[\]@]*)(?::([0-9]*))?/?")
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")


@attrs.frozen
class Address:
    """One parsed address; the scheme is in lower case, the host without brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://[{self.host}]:{self.port}" if ":" in self.host else self.netloc

    @property
    def netloc(self) -> str:
        """The URL without brackets, for names and IPv4."""
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The IP literal, or None when the host is a name."""
        return _literal(self.host)


def parse_address(text: str, *, allow_hostnames: bool = False, key: str = "") -> Address:
    """The address of a URL.

    :param allow_hostnames: as ``AllowHostnameAddresses``; otherwise the host must be an IP literal, or an onion name.
    :param key: the configuration key, for the error.
    :raises ConfigError: not such a URL, an unknown scheme, no port, a host that is not allowed, a family that does not
        fit ``tcp4`` or ``tcp6``.
    """
    match = _URL.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"{text!r} is not an address; write scheme://host:port, for example tcp://192.0.2.1:3219", key
        )
    scheme, host, port_text = match[1].lower(), match[2], match[3]
    if scheme not in SCHEMES:
        raise ConfigError(f"{text!r}: unsupported scheme {scheme!r}; use one of {', '.join(SCHEMES)}", key)
    if not port_text:
        raise ConfigError(f"{text!r} must contain a port", key)
    port = int(port_text) if len(port_text) <= 5 else 0
    if not 0 < port < 65536:
        raise ConfigError(f"{text!r}: port must be 1 to 65535", key)
    bracketed = host.startswith("[")
    host = host.strip("[]")
    literal = _literal(host)
    if bracketed and (literal is None or literal.version != 6):
        raise ConfigError(f"{text!r}: only an IPv6 address belongs in brackets", key)
    if literal is None:
        _check_name(text, scheme, host, allow_hostnames, key)
    elif scheme == "onion":
        raise ConfigError(f"{text!r}: an onion address needs an onion name", key)
    elif scheme in ("tcp4", "tcp6") and scheme != f"tcp{literal.version}":
        raise ConfigError(f"{text!r}: the host is not of that family", key)
    return Address(scheme, host, port)


def _check_name(text: str, scheme: str, host: str, allow_hostnames: bool, key: str) -> None:
    if not _NAME.fullmatch(host) or len(host) > 253:
        raise ConfigError(f"{text!r} has no usable host", key)
    if scheme != "onion" and not allow_hostnames:
        raise ConfigError(f"{text!r}: the host must be an IP address, or set AllowHostnameAddresses", key)


def _literal(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None
