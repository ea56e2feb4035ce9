"""``authority.toml`` as one model: two shapes of files in, one :class:`AuthorityConfig` out (spec: pki 10.6, 12).

A file with ``[[Authorities]]`` has the shape of v0.0.99, any other the shape of the older nonvoting authority. The
difference is in what may be left out; every table is accepted in both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import attrs

from katzentwist.config import kinds, schema
from katzentwist.config.addresses import DEFAULT_AUTHORITY_PORT, Address, check_hostport, family_mistake, is_public
from katzentwist.config.authoritytables import (
    DEFAULT_RATE,
    AuthorityFile,
    DebugTable,
    ParametersTable,
    ServerTable,
)
from katzentwist.config.common import (
    Authority,
    Logging,
    check_data_dir,
    check_duration,
    known_kem,
    known_signature_scheme,
    parse_addresses,
    resolve_authorities,
    resolve_geometry,
    resolve_logging,
)
from katzentwist.config.kinds import FileKind
from katzentwist.config.schema import Report
from katzentwist.config.whitelist import Member, ReadFile, WhiteListReader
from katzentwist.crypto import sign
from katzentwist.errors import ConfigError
from katzentwist.sphinx import Geometry

MAX_LAYERS = 3
_NO_PEERS = ("dial_timeout", "close_delay", "retry_attempts", "retry_base", "retry_max", "retry_jitter")
_NO_PLACE = ("send_rate", "lambda_d", "mu_max", "lambda_p_max", "lambda_l_max", "lambda_d_max", "lambda_m_max")


@attrs.frozen(kw_only=True)
class Parameters:
    """The rates of the document, events per millisecond."""

    mu: float = DEFAULT_RATE
    lambda_p: float = DEFAULT_RATE
    lambda_l: float = DEFAULT_RATE
    lambda_m: float = DEFAULT_RATE
    lambda_r: float = DEFAULT_RATE


@attrs.frozen(kw_only=True)
class AuthorityConfig:
    """A checked authority file.

    :ivar members: the white list; empty when the key files were not read (key generation).
    :ivar topology: identity keys of each fixed layer, or None.
    :ivar own: the entry of [[Authorities]], which must be ourselves, or None.
    :ivar handshake_timeout: seconds; *response_timeout* too.
    """

    identifier: str
    data_dir: str
    wire_kem: str
    signature_scheme: str
    addresses: tuple[Address, ...]
    listen: tuple[Address, ...]
    epoch_duration: str
    handshake_timeout: int
    response_timeout: int
    metrics_address: tuple[str, int] | None
    logging: Logging
    parameters: Parameters
    layers: int
    min_nodes_per_layer: int
    generate_only: bool
    bootstrap_current_epoch: bool
    members: tuple[Member, ...]
    topology: tuple[tuple[bytes, ...], ...] | None
    geometry: Geometry
    own: Authority | None


def load(
    text: str, *, local_ips: Iterable[str] = (), read_file: ReadFile | None = None
) -> tuple[AuthorityConfig | None, Report]:
    """An authority configuration from the text of its file, and what was found on the way.

    :param local_ips: addresses of this host's interfaces, for a file without Addresses.
    :param read_file: how to read key files. None leaves the white list unread and unchecked, for key generation.
    :returns: the configuration is None exactly when the report has errors.
    """
    report = Report()
    try:
        raw = kinds.parse(text, FileKind.AUTHORITY)
    except ConfigError as e:
        report.errors.append(e)
        return None, report
    file = schema.read(AuthorityFile, raw, report)
    if file.server is not None and file.authority is not None:
        report.error("[Server] and [Authority] are two names of one table; keep [Server]", "Authority")
    server = file.server or file.authority
    if server is None:
        report.error("config: No Server block was present", "Server")
        return None, report
    where = "Server" if file.server is not None else "Authority"
    config = _Resolver(file, server, where, report, read_file).config(local_ips)
    return (None if report.errors else config), report


class _Resolver:
    """One pass over a file; every method notes its mistakes in the report and goes on."""

    def __init__(
        self, file: AuthorityFile, server: ServerTable, where: str, report: Report, read_file: ReadFile | None
    ) -> None:
        self.file, self.server, self.where, self.report = file, server, where, report
        self.read_file = read_file
        self.debug = file.debug or DebugTable()
        self.older = not file.authorities

    def config(self, local_ips: Iterable[str]) -> AuthorityConfig:
        file, server, report, where = self.file, self.server, self.report, self.where
        check_data_dir(server.data_dir, report, f"{where}.DataDir")
        check_duration(server.epoch_duration, f"{where}.EpochDuration", report)
        wire_kem = known_kem(server.wire_kem or ("x25519" if self.older else ""), f"{where}.WireKEMScheme", report)
        scheme = known_signature_scheme(
            server.signature_scheme or ("Ed25519" if self.older else ""), f"{where}.PKISignatureScheme", report
        )
        addresses = self.addresses(local_ips)
        geometry = resolve_geometry(file.geometry, report, default=self.older)
        layers = self.layers(geometry)
        if file.replicas:
            report.error("storage replicas are not supported", "StorageReplicas")
        for table, attributes, why in (
            (server, _NO_PEERS, "this authority has no peers"),
            (file.parameters or ParametersTable(), _NO_PLACE, "it has no place in a document of today"),
        ):
            self.warn_ignored(table, attributes, why)
        generate_only = self.debug.generate_only or self.read_file is None
        members: tuple[Member, ...] = ()
        fixed = None
        if scheme and self.read_file is not None and not generate_only:
            reader = WhiteListReader(server.data_dir, sign.by_name(scheme), self.read_file, report)
            members = reader.members(file, layers * (self.debug.min_nodes or 2))
            fixed = reader.topology(file, layers, members)
        return AuthorityConfig(
            identifier=server.identifier,
            data_dir=server.data_dir,
            wire_kem=wire_kem,
            signature_scheme=scheme,
            addresses=addresses,
            listen=self.listen(addresses),
            epoch_duration=server.epoch_duration,
            handshake_timeout=self.seconds(server.handshake_timeout, 3, "HandshakeTimeoutSec"),
            response_timeout=self.seconds(server.response_timeout, 30, "ResponseTimeoutSec"),
            metrics_address=self.metrics(),
            logging=resolve_logging(file.logging, server.data_dir, report),
            parameters=self.parameters(),
            layers=layers,
            min_nodes_per_layer=self.debug.min_nodes or 2,
            generate_only=generate_only,
            bootstrap_current_epoch=self.debug.bootstrap,
            members=members,
            topology=fixed,
            geometry=geometry,
            own=self.own(scheme, wire_kem),
        )

    def addresses(self, local_ips: Iterable[str]) -> tuple[Address, ...]:
        path = f"{self.where}.Addresses"
        if self.server.addresses is None:
            public = next((ip for ip in local_ips if is_public(ip)), None)
            if public is None:
                self.report.error("no globally routable IPv4 addresses found; write the authority's address", path)
                return ()
            return (Address("tcp", public, DEFAULT_AUTHORITY_PORT),)
        if not self.server.addresses:
            self.report.error("is an empty list; write at least one address", path)
        return self.urls(self.server.addresses, path)

    def urls(self, texts: Sequence[str], path: str) -> tuple[Address, ...]:
        spelled = tuple(text if "://" in text else f"tcp://{text}" for text in texts)
        found = parse_addresses(spelled, path, self.server.allow_hostnames, self.report)
        for address in found:
            if mistake := family_mistake(address):
                self.report.error(mistake, path)
            elif address.scheme == "onion":
                self.report.error(f"an authority has no onion address such as {address.url!r}", path)
        return found

    def listen(self, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        server = self.server
        path = f"{self.where}.BindAddresses" if server.bind_addresses else f"{self.where}.Addresses"
        listen = self.urls(server.bind_addresses, path) if server.bind_addresses else addresses
        disabled = {4} if server.disable_ipv4 else set()
        disabled |= {6} if server.disable_ipv6 else set()
        kept = tuple(a for a in listen if a.ip is None or a.ip.version not in disabled)
        if listen and not kept:
            self.report.error("DisableIPv4 and DisableIPv6 leave no address to listen on", path)
        return kept

    def metrics(self) -> tuple[str, int] | None:
        if not self.server.metrics_address:
            return None
        try:
            return check_hostport(self.server.metrics_address, self.server.allow_hostnames)
        except ConfigError as e:
            self.report.error(str(e), f"{self.where}.MetricsAddress")
            return None

    def seconds(self, value: int, default: int, name: str) -> int:
        if not 0 <= value <= 3600:
            self.report.error(f"{value} is not a number of seconds from 0 to 3600", f"{self.where}.{name}")
        return value or default

    def own(self, scheme: str, wire_kem: str) -> Authority | None:
        tables = self.file.authorities
        if not tables:
            return None
        if len(tables) > 1:
            self.report.error(
                f"{len(tables)} authorities are listed, but voting is not supported: keep our own entry only",
                "Authorities",
            )
            return None
        found = resolve_authorities(tables, "Authorities", self.server.allow_hostnames, self.report)
        own = found[0] if found else None
        if own is not None and scheme and wire_kem and (own.signature_scheme, own.wire_kem) != (scheme, wire_kem):
            self.report.error(f"our own entry must have the schemes of [{self.where}]", "Authorities[0]")
        return own

    def parameters(self) -> Parameters:
        table = self.file.parameters or ParametersTable()
        rates = {}
        for attribute, spec in schema.specs(ParametersTable):
            if spec.name not in ("Mu", "LambdaP", "LambdaL", "LambdaM", "LambdaR"):
                continue
            value: float = getattr(table, attribute)
            if value < 0 or not math.isfinite(value):
                self.report.error(
                    f"{value} is not a rate; write a number that is not negative", f"Parameters.{spec.name}"
                )
            rates[attribute] = value or DEFAULT_RATE
        return Parameters(**rates)

    def layers(self, geometry: Geometry) -> int:
        layers = self.debug.layers or MAX_LAYERS
        if not 1 <= layers <= MAX_LAYERS:
            self.report.error(f"{layers} layers are not supported; 1 to {MAX_LAYERS}", "Debug.Layers")
        elif geometry.nr_hops < layers + 2:
            self.report.error(
                f"{layers} layers need a geometry of at least {layers + 2} hops, SphinxGeometry.NrHops is "
                f"{geometry.nr_hops}",
                "Debug.Layers",
            )
        if self.debug.min_nodes < 0:
            self.report.error(f"{self.debug.min_nodes} is negative", "Debug.MinNodesPerLayer")
        return layers

    def warn_ignored(self, table: object, attributes: tuple[str, ...], why: str) -> None:
        names = [spec.name for attribute, spec in schema.specs(type(table)) if attribute in attributes]
        found = [n for a, n in zip(attributes, names, strict=True) if getattr(table, a)]
        if found:
            self.report.warn(f"{', '.join(found)}: without effect, {why}")
