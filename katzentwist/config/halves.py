"""The identities of a node: names, addresses, what is advertised (spec: node 2.1 and 11, provider 1.2 and 11.4)."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

import attrs

from katzentwist.config.addresses import (
    DEFAULT_NODE_PORT,
    Address,
    alternative_addresses,
    family_mistake,
    is_public,
)
from katzentwist.config.common import parse_addresses, parse_key
from katzentwist.config.names import MAX_NAME, normalize_identifier
from katzentwist.config.nodetables import NodeFile, ProviderTable, ServerTable
from katzentwist.config.schema import Report
from katzentwist.crypto import keys, sign
from katzentwist.errors import ConfigError, CryptoError

REACHABLE = ("tcp4", "tcp6", "quic")
"""Transports by which nodes dial each other."""


class Kind(enum.Enum):
    """What a half of a node is."""

    MIX = "mix"
    GATEWAY = "gateway"
    SERVICE = "service"


@attrs.frozen(kw_only=True)
class Half:
    """One identity of the process: what it advertises and where it listens."""

    kind: Kind
    identifier: str
    key_dir: str
    addresses: tuple[Address, ...]
    listen: tuple[Address, ...]
    alternatives: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    only_alternatives: bool = False
    identity_key: bytes | None = attrs.field(default=None, repr=False)


class HalfResolver:
    """One pass over the part of a file that is about identities; mistakes go into the report.

    :param older: whether the file has the older shape.
    :param local_ips: addresses of this host's interfaces.
    """

    def __init__(
        self, file: NodeFile, server: ServerTable, report: Report, older: bool, local_ips: tuple[str, ...]
    ) -> None:
        self.file, self.server, self.report = file, server, report
        self.older, self.local_ips = older, local_ips

    def halves(self, scheme: str) -> tuple[Half, ...]:
        """The halves of the file's kind of node.

        :param scheme: the signature scheme, or nothing if the file has none that is known.
        """
        server = self.server
        self.check_kinds()
        identifier = self.identifier(server.identifier, "Server.Identifier", "config: Server: Identifier is not set")
        addresses = self.addresses(server.addresses, "Server.Addresses")
        bind = self.urls(server.bind_addresses, "Server.BindAddresses")
        kind = (
            Kind.GATEWAY if server.is_provider or server.is_gateway else Kind.SERVICE if server.is_service else Kind.MIX
        )
        first = Half(
            kind=kind,
            identifier=identifier,
            key_dir=server.data_dir,
            addresses=addresses,
            listen=bind or addresses,
            alternatives=self.alternatives(),
            only_alternatives=server.only_alt,
            identity_key=self.identity_key(scheme),
        )
        for address in first.listen:
            if address.scheme == "onion":
                self.unworkable(
                    f"can not listen on {address.url!r}; name the local address in BindAddresses", "Server.Addresses"
                )
        if not server.is_provider:
            return (first,)
        return first, self.service_half(first, bool(server.bind_addresses))

    def check_kinds(self) -> None:
        server, file, report = self.server, self.file, self.report
        if server.is_provider and (server.is_gateway or server.is_service):
            report.error(
                "IsProvider can not stand beside IsGatewayNode or IsServiceNode; choose one", "Server.IsProvider"
            )
        elif server.is_gateway and server.is_service:
            report.error(
                "IsGatewayNode and IsServiceNode can not both be true: no network takes such a node; use IsProvider",
                "Server.IsServiceNode",
            )
        for table, name, flag, key, kind in (
            (file.provider, "Provider", server.is_provider, "Server.IsProvider", "Provider"),
            (file.gateway, "Gateway", server.is_gateway, "Server.IsGatewayNode", "Gateway"),
            (file.service_node, "ServiceNode", server.is_service, "Server.IsServiceNode", "Service node"),
        ):
            if table is not None and not flag:
                report.error(f"config: {kind} block set when not a {kind}", name, key)

    def identifier(self, text: str, path: str, missing: str) -> str:
        if not text:
            self.report.error(missing, path)
            return ""
        try:
            return normalize_identifier(text)
        except ConfigError as e:
            self.report.error(f"config: {e}", path)
            return ""

    def urls(self, texts: Iterable[str], path: str) -> tuple[Address, ...]:
        """Checked URLs; in the older shape also ``ip:port``, ``http://`` (QUIC) and, as tcp, ``tcp4://`` and ``tcp6://``."""
        found = parse_addresses(tuple(texts), path, self.server.allow_hostnames, self.report, older=self.older)
        for address in found:
            if mistake := family_mistake(address):
                self.unworkable(mistake, path)
        return found

    def addresses(self, texts: tuple[str, ...] | None, path: str) -> tuple[Address, ...]:
        if texts is None:
            public = next((ip for ip in self.local_ips if is_public(ip)), None)
            if public is None:
                self.report.error("no globally routable IPv4 addresses found; write the node's address", path)
                return ()
            return (Address("tcp", public, DEFAULT_NODE_PORT),)
        if not texts:
            self.report.error("is an empty list; write at least one address", path)
        found = self.urls(texts, path)
        if self.older:
            return tuple(a.with_scheme("tcp") if a.scheme in ("tcp4", "tcp6") else a for a in found)
        for address in found:
            if address.scheme in ("tcp4", "tcp6"):
                self.unworkable(f'address "{address.url}" can not be advertised; write tcp://', path)
        return found

    def unworkable(self, why: str, path: str) -> None:
        """What v0.0.99 takes when it loads the file, and refuses when it starts with it; so do we (spec: node 12.1)."""
        if self.older:
            self.report.error(why, path)
        else:
            self.report.warn(f"{path}: {why}; the start will fail")

    def alternatives(self) -> dict[str, tuple[str, ...]]:
        """What AltAddresses add to the descriptor; those of a v0.0.99 [Gateway] add nothing (spec: node 2.3)."""
        out: dict[str, tuple[str, ...]] = {}
        provider = self.file.provider or ProviderTable()
        for table, where in (
            (self.server.alt_addresses, "Server.AltAddresses"),
            (provider.alt_addresses, "Provider.AltAddresses"),
        ):
            try:
                found, warnings = alternative_addresses(table, where)
            except ConfigError as e:
                self.report.error(f"config: Provider: {e}", where)
                continue
            self.report.warnings.extend(warnings)
            for transport, urls in found.items():
                if where.startswith("Provider") and transport in ("tcp4", "tcp6", "quic"):
                    self.report.error(
                        f"config: Provider: AltAddress is overriding internal transport: {transport}", where
                    )
                elif transport in out:
                    self.report.error(f"transport {transport!r} stands in both AltAddresses tables", where)
                else:
                    out[transport] = urls
        if self.server.only_alt and not out:
            self.report.error(
                "Descriptor address map is zero size: OnlyAdvertiseAltAddresses without AltAddresses",
                "Server.OnlyAdvertiseAltAddresses",
            )
        elif self.server.only_alt and not out.keys() & set(REACHABLE):
            self.report.warn(
                f"OnlyAdvertiseAltAddresses: without one of {', '.join(REACHABLE)} no other node can reach this one"
            )
        return out

    def identity_key(self, scheme: str) -> bytes | None:
        """[Debug] IdentityKey: seed, or seed and public key, in hex, base64 or PEM."""
        text = self.file.debug.identity_key if self.file.debug else ""
        if not text or not scheme:
            return None
        try:
            signer = sign.by_name(scheme)
            raw = keys.decode_private(signer, text) if "-----BEGIN" in text else parse_key(text, (32, 64))
            private, public = signer.keypair_from_seed(raw[:32])
            if len(raw) == 64 and raw[32:] != public:
                raise ConfigError("the public half does not belong to the seed")
        except (ConfigError, CryptoError) as e:
            self.report.error(str(e), "Debug.IdentityKey")
            return None
        self.report.warn("IdentityKey should NOT be used for production deployments.")
        return private

    def service_half(self, gateway: Half, bind_given: bool) -> Half:
        """The second identity of a Provider (spec: provider 11.4)."""
        table, report = self.file.provider or ProviderTable(), self.report
        # Without the first name, which is a mistake of its own, nothing can be wrong with the second.
        name = table.service_identifier or (f"{gateway.identifier}-service" if gateway.identifier else "service")
        if not table.service_identifier and len(name) > MAX_NAME:
            report.error(
                f"'{name}' is longer than {MAX_NAME} bytes; choose a name with ServiceIdentifier",
                "Provider.ServiceIdentifier",
            )
            name = "service"
        name = self.identifier(name, "Provider.ServiceIdentifier", "is empty")
        if name and name == gateway.identifier:
            report.error("must differ from Identifier", "Provider.ServiceIdentifier")
        try:
            if table.service_addresses is not None:
                addresses = self.addresses(table.service_addresses, "Provider.ServiceAddresses")
            else:
                addresses = tuple(a.next_port() for a in gateway.addresses if a.scheme != "onion")
            if table.service_bind_addresses is not None:
                bind = self.urls(table.service_bind_addresses, "Provider.ServiceBindAddresses")
            else:
                bind = tuple(a.next_port() for a in gateway.listen) if bind_given else ()
        except ConfigError as e:
            report.error(str(e), "Provider.ServiceAddresses")
            addresses = bind = ()
        listen = bind or addresses
        for address in listen:
            if any(
                (a.hostport, a.scheme == "quic") == (address.hostport, address.scheme == "quic") for a in gateway.listen
            ):
                report.error(f"{address.url!r} is also an address of the gateway half", "Provider.ServiceAddresses")
        return Half(
            kind=Kind.SERVICE,
            identifier=name,
            key_dir=str(PurePosixPath(self.server.data_dir) / "service"),
            addresses=addresses,
            listen=listen,
        )
