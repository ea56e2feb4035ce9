"""``client.toml`` (spec: client 2)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import attrs

from katzentwist.clock import parse_duration
from katzentwist.config import kinds, schema
from katzentwist.config.addresses import Address, check_hostport, parse_url
from katzentwist.config.common import (
    Authority,
    AuthorityTable,
    Logging,
    LoggingTable,
    check_duration,
    known_kem,
    known_signature_scheme,
    missing_table,
    parse_key,
    resolve_authorities,
    resolve_geometry,
    resolve_logging,
    resolve_peer,
)
from katzentwist.config.kinds import FileKind
from katzentwist.config.schema import Report, key
from katzentwist.crypto import keys, sign
from katzentwist.errors import ConfigError
from katzentwist.sphinx import Geometry

TRANSPORTS = ("tcp", "tcp4", "tcp6", "quic", "ws", "onion")
SMALLEST_USER_PAYLOAD = 452
GRACE = 10 * 60.0


@attrs.frozen(kw_only=True)
class TcpTable:
    """A TCP socket."""

    address: str = key("Address", schema.text, "host:port.", required="is not set")
    network: str = key("Network", schema.text, "`tcp`, `tcp4` or `tcp6`.", default="tcp")


@attrs.frozen(kw_only=True)
class UnixTable:
    """A UNIX socket."""

    address: str = key("Address", schema.text, "Path, or @name for an abstract socket.", required="is not set")


@attrs.frozen(kw_only=True)
class SocketTable:
    """Exactly one of these."""

    tcp: TcpTable | None = key("Tcp", schema.table_of(TcpTable), "TCP.")
    unix: UnixTable | None = key("Unix", schema.table_of(UnixTable), "UNIX.")
    ws: dict[str, Any] | None = key("Ws", schema.free_table, "Websocket; not in this version.")


@attrs.frozen(kw_only=True)
class GatewayTable:
    """A gateway to begin with."""

    name: str = key("Name", schema.text, "Its name.", required="is not set")
    identity_key: str = key("IdentityKey", schema.text, "PEM text of its identity key.", required="is not set")
    signature_scheme: str = key("PKISignatureScheme", schema.text, "Scheme of that key.", required="is not set")
    link_key: str = key("LinkKey", schema.text, "PEM text of its link key.", required="is not set")
    wire_kem: str = key("WireKEMScheme", schema.text, "KEM of that key.", required="is not set")
    addresses: tuple[str, ...] = key("Addresses", schema.texts, "Its URLs.", required="is not set", default=())


@attrs.frozen(kw_only=True)
class PinnedTable:
    """Gateways that are known before any document is."""

    gateways: tuple[GatewayTable, ...] = key("Gateways", schema.tables_of(GatewayTable), "One entry each.", default=())


@attrs.frozen(kw_only=True)
class PeersTable:
    """The authorities whose signatures count; they are never dialled."""

    peers: tuple[AuthorityTable, ...] = key("Peers", schema.tables_of(AuthorityTable), "One entry each.", default=())


@attrs.frozen(kw_only=True)
class NonvotingTable:
    """The one authority of an older network."""

    address: str = key("Address", schema.text, "Not used: the client dials no authority.", default="")
    public_key: str = key("PublicKey", schema.text, "Identity key: hex, base64 or PEM.", default="")
    identity_pem: str = key("IdentityPublicKeyPem", schema.text, "PEM text of the identity key.", default="")
    link_pem: str = key("LinkPublicKeyPem", schema.text, "PEM text of the link key; not used.", default="")


@attrs.frozen(kw_only=True)
class ProxyTable:
    """A SOCKS proxy for TCP and onion addresses."""

    type: str = key("Type", schema.text, "`none`, `socks5` or `tor+socks5`.", default="none")
    network: str = key("Network", schema.text, "`tcp` or `unix`.", default="")
    address: str = key("Address", schema.text, "IP:port, or the path of a socket.", default="")
    user: str = key("User", schema.text, "User name, at most 255 bytes.", default="")
    password: str = key("Password", schema.text, "Password, at most 255 bytes.", default="")


@attrs.frozen(kw_only=True)
class DebugTable:
    """Settings for experiments."""

    disable_decoys: bool = key("DisableDecoyTraffic", schema.boolean, "Send no decoys.", default=False)
    time_sync: bool = key("EnableTimeSync", schema.boolean, "Use the gateway's clock.", default=False)
    dial_timeout: int = key("SessionDialTimeout", schema.integer, "Accepted and not used.", default=30)
    retrieval_delay: int = key("InitialMaxPKIRetrievalDelay", schema.integer, "Accepted and not used.", default=30)
    polling_interval: int = key("PollingInterval", schema.integer, "Accepted and not used.", default=10)
    arq_slop: int = key("ARQSlop", schema.seconds, "Ours: seconds added to the ARQ timer.", default=20)


def _grace(value: Any, path: str, report: Report) -> float:
    try:
        if isinstance(value, int) and not isinstance(value, bool):
            nanoseconds = schema.integer(value, path, report)
        else:
            nanoseconds = parse_duration(schema.text(value, path, report))
    except ConfigError as e:
        raise ConfigError(f"invalid duration: {e}", path) from e
    if nanoseconds < 0:
        raise ConfigError(f"invalid duration: {value} is negative", path)
    return float(nanoseconds / 1e9)


_grace.kind = "duration text"  # type: ignore[attr-defined]


@attrs.frozen(kw_only=True)
class ClientFile:
    """The client daemon, and tools that connect by themselves."""

    wire_kem: str = key(
        "WireKEMScheme", schema.text, "KEM of links.", default="", required="WireKEMScheme is empty string"
    )
    signature_scheme: str = key("PKISignatureScheme", schema.text, "Accepted and not used.", default="")
    allow_hostnames: bool = key("AllowHostnameAddresses", schema.boolean, "Accept host names.", default=False)
    grace: float = key(
        "SessionGracePeriod",
        _grace,
        "How long the state of an application is kept after its connection dropped.",
        default=GRACE,
        default_text="10m",
    )
    metrics_address: str = key("MetricsAddress", schema.text, "Accepted and not used.", default="")
    epoch_duration: str = key("EpochDuration", schema.text, "Ours: epoch length.", default="", default_text="20m")
    transports: tuple[str, ...] = key(
        "PreferedTransports", schema.texts, "Order of transports to the gateway.", default=TRANSPORTS
    )
    listen: SocketTable | None = key("Listen", schema.table_of(SocketTable), "Where applications connect.")
    geometry: dict[str, Any] | None = key("SphinxGeometry", schema.free_table, "The network's Sphinx geometry.")
    pinned: PinnedTable | None = key("PinnedGateways", schema.table_of(PinnedTable), "Gateways to begin with.")
    voting: PeersTable | None = key("VotingAuthority", schema.table_of(PeersTable), "Who signs documents.")
    nonvoting: NonvotingTable | None = key("NonvotingAuthority", schema.table_of(NonvotingTable), "Older form.")
    proxy: ProxyTable | None = key("UpstreamProxy", schema.table_of(ProxyTable), "Proxy.")
    logging: LoggingTable | None = key("Logging", schema.table_of(LoggingTable), "The log.")
    debug: DebugTable | None = key("Debug", schema.table_of(DebugTable), "Experiments.")
    cached_document: Any = key("CachedDocument", lambda v, p, r: v, "Refused: it never worked upstream.")


@attrs.frozen(kw_only=True)
class Gateway:
    """A pinned gateway."""

    name: str
    identity_key: bytes
    link_key: bytes
    wire_kem: str
    addresses: tuple[Address, ...]

    @property
    def id(self) -> bytes:
        """The node id, 32 bytes."""
        return keys.identity_hash(self.identity_key)


@attrs.frozen(kw_only=True)
class Socket:
    """Where to listen or dial: *network* is tcp, tcp4, tcp6 or unix."""

    network: str
    address: str

    @property
    def hostport(self) -> tuple[str, int]:
        """Host and port of a TCP socket."""
        parsed = parse_url(f"tcp://{self.address}")
        return parsed.host, parsed.port


@attrs.frozen(kw_only=True)
class Proxy:
    """The upstream proxy; *type* is none, socks5 or tor+socks5."""

    type: str = "none"
    network: str = ""
    address: str = ""
    user: str = ""
    password: str = attrs.field(default="", repr=False)


@attrs.frozen(kw_only=True)
class ClientConfig:
    """A checked client file."""

    wire_kem: str
    epoch_duration: str
    grace: float
    transports: tuple[str, ...]
    listen: Socket | None
    geometry: Geometry
    gateways: tuple[Gateway, ...]
    authorities: tuple[Authority, ...]
    proxy: Proxy
    logging: Logging
    disable_decoys: bool
    time_sync: bool
    arq_slop: float


def load(text: str) -> tuple[ClientConfig | None, Report]:
    """A client configuration from the text of its file; None exactly when the report has errors."""
    report = Report()
    try:
        raw = kinds.parse(text, FileKind.CLIENT)
    except ConfigError as e:
        report.errors.append(e)
        return None, report
    if schema.lookup(raw, "PigeonholeGeometry") is not None:
        report.error("this table must not be there; remove it", "PigeonholeGeometry")
        raw = {k: v for k, v in raw.items() if k.lower() != "pigeonholegeometry"}
    file = schema.read(ClientFile, raw, report)
    config = _resolve(file, raw, report)
    return (None if report.errors else config), report


def _resolve(file: ClientFile, raw: Mapping[str, Any], report: Report) -> ClientConfig:
    wire_kem = known_kem(file.wire_kem, "WireKEMScheme", report) if file.wire_kem else ""
    check_duration(file.epoch_duration, "EpochDuration", report)
    geometry = resolve_geometry(file.geometry, report, default=False)
    if geometry.user_forward_payload_length < SMALLEST_USER_PAYLOAD:
        report.error(
            "config: cannot derive a Pigeonhole geometry from the SphinxGeometry: sphinx geometry too small: "
            f"UserForwardPayloadLength={geometry.user_forward_payload_length}, total overhead=451",
            "SphinxGeometry.UserForwardPayloadLength",
        )
    if file.cached_document is not None:
        report.error("is not supported; remove it, pinned gateways serve the same end", "CachedDocument")
    if file.metrics_address:
        try:
            check_hostport(file.metrics_address, file.allow_hostnames)
        except ConfigError as e:
            report.error(f"config: MetricsAddress: {e}", "MetricsAddress")
    debug = file.debug or DebugTable()
    logging = resolve_logging(file.logging, "/", report)
    if file.logging is not None and file.logging.file and not file.logging.file.startswith("/"):
        report.error("log file path must be absolute path", "Logging.File")
    return ClientConfig(
        wire_kem=wire_kem,
        epoch_duration=file.epoch_duration,
        grace=file.grace or GRACE,
        transports=file.transports or TRANSPORTS,
        listen=_listen(file, raw, report),
        geometry=geometry,
        gateways=_gateways(file, raw, report),
        authorities=_authorities(file, wire_kem, report),
        proxy=resolve_proxy(file.proxy, report),
        logging=logging,
        disable_decoys=debug.disable_decoys,
        time_sync=debug.time_sync,
        arq_slop=float(debug.arq_slop if debug.arq_slop > 0 else 20),
    )


def _listen(file: ClientFile, raw: Mapping[str, Any], report: Report) -> Socket | None:
    if missing_table(raw, "Listen", report) or file.listen is None:
        return None
    return resolve_socket(file.listen, "listen", "Listen", file.allow_hostnames, report)


def resolve_socket(table: SocketTable, what: str, path: str, allow_hostnames: bool, report: Report) -> Socket | None:
    """The one transport of a [Listen] or [Dial] table."""
    given = [t for t in (table.tcp, table.unix, table.ws) if t is not None]
    if len(given) != 1:
        text = "exactly one {} transport must be configured" if given else "no {} transport configured"
        report.error(f"transport: {text.format(what)}", path, *(f"{path}.{kind}" for kind in ("Tcp", "Unix", "Ws")))
        return None
    if table.ws is not None:
        report.error("websockets are not in this version; use Tcp or Unix", f"{path}.Ws")
        return None
    if table.unix is not None:
        address = table.unix.address
        if address and not address.startswith(("@", "/")) and what == "listen":
            address = str(PurePosixPath(address))
        return Socket(network="unix", address=address)
    tcp = table.tcp or TcpTable(address="")
    if tcp.network not in ("tcp", "tcp4", "tcp6"):
        report.error(
            f'transport: TcpListenConfig.Network "{tcp.network}" is not one of tcp, tcp4, tcp6', f"{path}.Tcp.Network"
        )
    try:
        check_hostport(tcp.address, allow_hostnames)
    except ConfigError as e:
        report.error(f"config: {path}.Tcp.Address: {e}", f"{path}.Tcp.Address")
        return None
    return Socket(network=tcp.network, address=tcp.address)


def _gateways(file: ClientFile, raw: Mapping[str, Any], report: Report) -> tuple[Gateway, ...]:
    if missing_table(raw, "PinnedGateways", report) or file.pinned is None:
        return ()
    if not file.pinned.gateways:
        report.error("no gateway is pinned; the client would never find one", "PinnedGateways.Gateways")
    out = []
    for i, table in enumerate(file.pinned.gateways):
        path = f"PinnedGateways.Gateways[{i}]"
        before = len(report.errors)
        who = f'config: PinnedGateway "{table.name}": '
        peer = resolve_peer(table, path, ("IdentityKey", "LinkKey"), file.allow_hostnames, report, who=who)
        if len(report.errors) == before:
            out.append(
                Gateway(
                    name=table.name,
                    identity_key=peer.identity_key,
                    link_key=peer.link_key,
                    wire_kem=peer.wire_kem,
                    addresses=peer.addresses,
                )
            )
    return tuple(out)


def _authorities(file: ClientFile, wire_kem: str, report: Report) -> tuple[Authority, ...]:
    if file.voting is not None:
        return resolve_authorities(file.voting.peers, "VotingAuthority.Peers", file.allow_hostnames, report)
    if file.nonvoting is None:
        report.error("config: No VotingAuthority block was present", "VotingAuthority")
        return ()
    scheme = file.signature_scheme or "Ed25519"
    known = known_signature_scheme(scheme, "PKISignatureScheme", report)
    text = file.nonvoting.public_key or file.nonvoting.identity_pem
    if not known:
        return ()
    try:
        signer = sign.by_name(known)
        identity = parse_key(text, (signer.public_key_size,), signer)
    except ConfigError as e:
        report.error(f"invalid key: {e}", "NonvotingAuthority.PublicKey")
        return ()
    return (
        Authority(
            identifier="authority",
            identity_key=identity,
            signature_scheme=known,
            link_key=None,
            wire_kem=wire_kem,
            addresses=(),
        ),
    )


def resolve_proxy(table: ProxyTable | None, report: Report) -> Proxy:
    """The proxy settings; absent means none."""
    table = table or ProxyTable()
    path = "UpstreamProxy"
    kind = table.type.lower() or "none"
    if kind == "none":
        return Proxy()
    if kind not in ("socks5", "tor+socks5"):
        report.error(f"proxy/config: Type '{table.type}' is invalid; one of none, socks5, tor+socks5", f"{path}.Type")
        return Proxy()
    network = table.network.lower()
    if network == "tcp":
        try:
            check_hostport(table.address, False)
        except ConfigError as e:
            report.error(f"proxy/config: Address '{table.address}' is invalid: {e}", f"{path}.Address")
    elif network == "unix":
        if not table.address:
            report.error("proxy/config: Address '' is invalid", f"{path}.Address")
    else:
        report.error(f"proxy/config: Network '{table.network}' is invalid; tcp or unix", f"{path}.Network")
    if len(table.user.encode()) > 255 or len(table.password.encode()) > 255:
        report.error("proxy/config: User and Password have at most 255 bytes", f"{path}.User")
    if kind == "tor+socks5" and (table.user or table.password):
        report.error("proxy:config: Tor SOCKS5 conflicts with setting User/Password", f"{path}.User")
    elif bool(table.user) != bool(table.password):
        report.error("proxy/config: Both User and Password must be specified", f"{path}.User")
    return Proxy(type=kind, network=network, address=table.address, user=table.user, password=table.password)
