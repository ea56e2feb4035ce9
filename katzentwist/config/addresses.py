"""Addresses as URLs: their checks, and what a descriptor shows of them (spec: link 2.1, 2.2, node 11, provider 1.2)."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping

import attrs

from katzentwist.errors import ConfigError

IP_SCHEMES = ("tcp", "tcp4", "tcp6", "quic")
DESCRIPTOR_SCHEMES = (*IP_SCHEMES, "onion", "ws")
DEFAULT_NODE_PORT = 3219
DEFAULT_AUTHORITY_PORT = 62472

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[^\[\]/?#@]*\]|[^\[\]/?#@:]*)(?::([0-9]+))?/?")

Resolve = Callable[[str], Iterable[str]]
"""Host name to IP literals; raises OSError when there are none."""


@attrs.frozen
class Address:
    """One parsed address; *host* has no brackets, *scheme* is lower case."""

    scheme: str
    host: str
    port: int

    @property
    def hostport(self) -> str:
        """``host:port`` with the brackets that IPv6 needs."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL in normal form."""
        return f"{self.scheme}://{self.hostport}"

    @property
    def ip(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host as an IP address; None for a name. IPv4 in IPv6 counts as IPv4."""
        try:
            ip = ipaddress.ip_address(self.host)
        except ValueError:
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            return ip.ipv4_mapped
        return ip

    def with_scheme(self, scheme: str) -> Address:
        """The same place by another transport."""
        return attrs.evolve(self, scheme=scheme)

    def next_port(self) -> Address:
        """The same host, one port further (provider 11.4).

        :raises ConfigError: there is no further port.
        """
        if self.port >= 65535:
            raise ConfigError(f"address {self.url!r} leaves no port for the service half; set ServiceAddresses")
        return attrs.evolve(self, port=self.port + 1)


def parse_url(text: str, *, older: bool = False) -> Address:
    """An address from its URL.

    :param older: also as older files have it: ``ip:port`` is TCP, ``http://`` is QUIC (spec: provider 1.2).
    :raises ConfigError: no scheme, no port, a port beyond 65535.
    """
    if "://" not in text and ":" not in text:
        raise ConfigError(f"Address {text!r} is invalid: Must contain Port; write for example tcp://192.0.2.1:3219")
    match = _URL.fullmatch(f"tcp://{text}" if older and "://" not in text else text)
    if match is None:
        raise ConfigError(f"Address {text!r} is invalid: not a URL such as tcp://192.0.2.1:3219")
    scheme, host, port = match.groups()
    if port is None:
        raise ConfigError(f"Address {text!r} is invalid: Must contain Port")
    if len(port) > 5 or int(port) > 65535:
        raise ConfigError(f"Address {text!r} is invalid: port {port} is beyond 65535")
    scheme = scheme.lower()
    return Address("quic" if older and scheme == "http" else scheme, host.strip("[]"), int(port))


def check_address(address: Address, allow_hostnames: bool) -> None:
    """What can be dialled and listened on: by the rule of :func:`check_place`, and of the right family.

    :raises ConfigError: it can not.
    """
    check_place(address, allow_hostnames, address.url)
    if mistake := family_mistake(address):
        raise ConfigError(mistake)


def check_place(address: Address, allow_hostnames: bool, written: str) -> None:
    """The rule for addresses of nodes and authorities when a file is read (spec: node 2.1).

    :param written: how the file has it, for the error.
    :raises ConfigError: unknown scheme, no host, or a host name where only IP literals are allowed.
    """
    if address.scheme == "onion":
        return
    if address.scheme not in IP_SCHEMES:
        raise ConfigError(
            f'address "{written}" has unrecognised scheme "{address.scheme}"; one of {", ".join(IP_SCHEMES)}, onion'
        )
    if not address.host and not allow_hostnames:
        raise ConfigError(f'address "{written}" has no host portion')
    if address.ip is None and not allow_hostnames:
        raise ConfigError(
            f'address "{written}" has hostname "{address.host}" which is not an IP literal; '
            "write the IP address, or set AllowHostnameAddresses = true for a test network"
        )


def family_mistake(address: Address) -> str:
    """What is wrong if a tcp4 or tcp6 address has a literal of the other family; else nothing."""
    wanted = {"tcp4": 4, "tcp6": 6}.get(address.scheme)
    if wanted is None or address.ip is None or address.ip.version == wanted:
        return ""
    return f'address "{address.url}" is IPv{address.ip.version}, its scheme wants IPv{wanted}'


def check_hostport(text: str, allow_hostnames: bool) -> tuple[str, int]:
    """``host:port`` of a listener without scheme (metrics).

    :raises ConfigError: no port, or a name where only IP literals are allowed.
    """
    if not re.fullmatch(r"(\[[^\]]*\]|[^:\[\]]*):[0-9]{1,5}", text):
        raise ConfigError(f"'{text}' is invalid: write an IP address and a port, for example 127.0.0.1:6543")
    address = parse_url(f"tcp://{text}")
    if address.ip is None and not allow_hostnames:
        raise ConfigError(f'address "{text}" has hostname "{address.host}" which is not an IP literal')
    return address.host, address.port


def descriptor_map(addresses: Iterable[str], resolve: Resolve) -> dict[str, list[str]]:
    """Transport name -> URLs, as a descriptor advertises *addresses* (spec: node 11).

    :raises ConfigError: an address that can not be advertised, or a name that does not resolve.
    """
    out: dict[str, list[str]] = {}
    for text in addresses:
        address = parse_url(text)
        if address.scheme == "tcp":
            for ip in [str(address.ip)] if address.ip else _resolved(address, resolve):
                literal = Address("tcp", ip, address.port)
                out.setdefault("tcp6" if ":" in ip else "tcp4", []).append(literal.url)
        elif address.scheme == "quic":
            out.setdefault("quic", []).append(address.url)
        elif address.scheme == "onion":
            if address.host.endswith(".onion"):
                out.setdefault("onion", []).append(address.url)
        else:
            raise ConfigError(f'address "{text}" is invalid: it can not be advertised; use tcp://, quic:// or onion://')
    return out


def _resolved(address: Address, resolve: Resolve) -> list[str]:
    try:
        found = [str(ipaddress.ip_address(ip)) for ip in resolve(address.host)]
    except (OSError, ValueError) as e:
        raise ConfigError(f'address "{address.url}": the host name does not resolve: {e}') from e
    if not found:
        raise ConfigError(f'address "{address.url}": the host name has no IP address')
    return found


def alternative_addresses(
    table: Mapping[str, Iterable[str]], where: str
) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """AltAddresses as URLs by lower-case transport, and the warnings for those that no descriptor may hold.

    :raises ConfigError: a ``tcp`` entry without host or port (spec: provider 1.2 and 1.7).
    """
    out: dict[str, tuple[str, ...]] = {}
    warnings: list[str] = []
    for name, entries in table.items():
        transport = name.lower()
        urls = []
        for entry in entries:
            url = entry if "://" in entry else f"{transport}://{entry}"
            scheme = url.partition("://")[0].lower()
            if scheme not in ("tcp", "quic", "onion", "ws"):
                warnings.append(f"{where}.{name}: {entry!r} is left out: authorities refuse the transport {scheme!r}")
                continue
            if transport == "tcp" or "://" in entry:
                _check_alternative(entry, url)
            urls.append(url)
        if transport in out:
            raise ConfigError(f"transport {transport!r} is given twice", where)
        if urls:
            out[transport] = tuple(urls)
    return out, warnings


def _check_alternative(entry: str, url: str) -> None:
    match = _URL.fullmatch(url)
    if match is None:
        raise ConfigError(f"AltAddress '{entry}' is invalid: not host:port")
    if not match.group(2).strip("[]"):
        raise ConfigError(f"AltAddress '{entry}' is invalid: missing host")
    if match.group(3) is None or not 1 <= int(match.group(3)) <= 65535:
        raise ConfigError(f"AltAddress '{entry}' is invalid: missing port")


def is_public(ip: str) -> bool:
    """Whether an interface address may be advertised without being asked: global IPv4 unicast."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return False
    return address.version == 4 and address.is_global and not address.is_multicast
