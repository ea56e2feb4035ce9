"""Addresses to dial and listen on: the URLs of the configuration, strictly checked (spec: link 2.1)."""

from __future__ import annotations

import re

from katzentwist.config.addresses import Address, check_address, parse_url
from katzentwist.errors import ConfigError

__all__ = ["Address", "parse_address"]

_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_LONGEST_NAME = 253


def parse_address(text: str, *, allow_hostnames: bool = False, key: str = "") -> Address:
    """The address of a URL.

    :param allow_hostnames: as ``AllowHostnameAddresses``; otherwise the host must be an IP literal, or an onion name.
    :param key: the configuration key, for the error.
    :raises ConfigError: not such a URL, an unknown scheme, no port or port 0, a host that is not allowed, a family that
        does not fit ``tcp4`` or ``tcp6``.
    """
    try:
        address = parse_url(text)
        check_address(address, allow_hostnames)
        _check_host(address, bracketed="[" in text)
    except ConfigError as error:
        raise ConfigError(str(error), key) from None
    return address


def _check_host(address: Address, *, bracketed: bool) -> None:
    if not address.port:
        raise ConfigError(f"address {address.url!r}: port 0 can not be used")
    if address.ip is not None:
        if address.scheme == "onion":
            raise ConfigError(f"address {address.url!r}: an onion address needs an onion name")
        if bracketed != (":" in address.host):
            raise ConfigError(f"address {address.url!r}: IPv6 addresses stand in brackets, others do not")
    elif bracketed or not _NAME.fullmatch(address.host) or len(address.host) > _LONGEST_NAME:
        raise ConfigError(f"address {address.url!r} has no usable host")
