"""``katzenpost.toml`` as one model: two shapes of files in, one :class:`NodeConfig` out (design D3).

Nothing behind this module knows which shape a file had. A node is made of *halves*: a mix, a gateway or a service node
is one half, a Provider is a gateway half and a service half in one process (spec: provider 11.3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import PurePosixPath

import attrs

from katzentwist.config import kinds, schema
from katzentwist.config.addresses import check_hostport, family_mistake
from katzentwist.config.common import (
    Authority,
    Logging,
    check_data_dir,
    check_duration,
    known_kem,
    known_signature_scheme,
    missing_table,
    parse_addresses,
    parse_key,
    resolve_authorities,
    resolve_geometry,
    resolve_logging,
)
from katzentwist.config.debug import Debug, resolve_debug
from katzentwist.config.halves import Half, HalfResolver, Kind
from katzentwist.config.kinds import FileKind
from katzentwist.config.names import UserNames
from katzentwist.config.nodetables import (
    GatewayTable,
    ManagementTable,
    NodeFile,
    NonvotingTable,
    PKITable,
    ProviderTable,
    ServerTable,
    ServiceNodeTable,
)
from katzentwist.config.schema import Report
from katzentwist.config.services import (
    Database,
    Service,
    check_sql,
    provider_plugins,
    resolve_services,
    resolve_spool_db,
    resolve_user_db,
)
from katzentwist.crypto import kem, keys, sign
from katzentwist.errors import ConfigError
from katzentwist.sphinx import Geometry

ReadFile = Callable[[str], str]
"""Text of a file by absolute path; raises OSError."""


@attrs.frozen(kw_only=True)
class UserPolicy:
    """Who is let in at a node with a user database, and under what name (spec: provider 2.1, 2.4)."""

    ephemeral: bool
    trust_on_first_use: bool
    names: UserNames = UserNames()


@attrs.frozen(kw_only=True)
class NodeConfig:
    """A checked node file. *users* and *user_db* are None at a gateway of v0.0.99, which lets every client in."""

    halves: tuple[Half, ...]
    data_dir: str
    wire_kem: str
    signature_scheme: str
    epoch_duration: str
    metrics_address: tuple[str, int] | None
    persist_mix_keys: bool
    persist_mix_keys_dir: str
    management_path: str | None
    logging: Logging
    authorities: tuple[Authority, ...]
    geometry: Geometry
    debug: Debug
    services: tuple[Service, ...]
    users: UserPolicy | None
    user_db: Database | None
    spool_db: Database | None

    @property
    def identifier(self) -> str:
        """The name of the process: that of its first half."""
        return self.halves[0].identifier

    def half(self, kind: Kind) -> Half | None:
        """The half of this kind, if there is one."""
        return next((h for h in self.halves if h.kind is kind), None)


def load(
    text: str, *, local_ips: Iterable[str] = (), read_file: ReadFile | None = None
) -> tuple[NodeConfig | None, Report]:
    """A node configuration from the text of its file, and what was found on the way.

    :param local_ips: addresses of this host's interfaces, for a file without Addresses.
    :param read_file: how to read the key files that an older file names; None refuses them.
    :returns: the configuration is None exactly when the report has errors.
    """
    report = Report()
    try:
        raw = kinds.parse(text, FileKind.NODE)
    except ConfigError as e:
        report.errors.append(e)
        return None, report
    file = schema.read(NodeFile, raw, report)
    missing_table(raw, "PKI", report)
    if missing_table(raw, "Server", report) or file.server is None:
        return None, report
    config = _Resolver(file, file.server, report, tuple(local_ips), read_file).config()
    return (None if report.errors else config), report


class _Resolver:
    """One pass over a file; every method notes its mistakes in the report and goes on."""

    def __init__(
        self,
        file: NodeFile,
        server: ServerTable,
        report: Report,
        local_ips: tuple[str, ...],
        read_file: ReadFile | None,
    ) -> None:
        self.file, self.server, self.report = file, server, report
        self.local_ips, self.read_file = local_ips, read_file
        nonvoting = file.pki is not None and file.pki.nonvoting is not None
        # Where what tells the shapes apart can not be read, only what both of them want is asked for.
        unread = any(map(report.refused, ("Server.IsProvider", "PKI.Nonvoting", "Provider")))
        self.older = server.is_provider or file.provider is not None or nonvoting or unread

    def config(self) -> NodeConfig:
        file, server, report = self.file, self.server, self.report
        geometry = resolve_geometry(file.geometry, report, default=self.older)
        check_data_dir(server.data_dir, report)
        check_duration(server.epoch_duration, "Server.EpochDuration", report)
        wire_kem = known_kem(server.wire_kem or ("x25519" if self.older else ""), "Server.WireKEM", report)
        scheme = known_signature_scheme(
            server.signature_scheme or ("Ed25519" if self.older else ""), "Server.PKISignatureScheme", report
        )
        halves = HalfResolver(self.file, self.server, report, self.older, self.local_ips).halves(scheme)
        provider = file.provider or ProviderTable()
        gateway, service_node = file.gateway or GatewayTable(), file.service_node or ServiceNodeTable()
        users = user_db = spool_db = None
        services: tuple[Service, ...] = ()
        if server.is_provider:
            users = UserPolicy(
                ephemeral=provider.ephemeral,
                trust_on_first_use=provider.tofu,
                names=UserNames(
                    binary=provider.binary_recipients,
                    case_sensitive=provider.case_sensitive_recipients,
                    delimiter=provider.recipient_delimiter,
                ),
            )
            user_db = resolve_user_db(provider.user_db, provider.sql_db, server.data_dir, report)
            spool_db = resolve_spool_db(provider.spool_db, provider.sql_db, server.data_dir, "Provider.SpoolDB", report)
            check_sql(provider.sql_db, "sql" in (user_db.backend, spool_db.backend), report)
            if user_db.path and user_db.path == spool_db.path:
                report.error(f"'{spool_db.path}' is the file of the user database too", "Provider.SpoolDB.Bolt.SpoolDB")
            services = resolve_services(provider.kaetzchen, provider_plugins(provider, report), "Provider", report)
        elif server.is_gateway:
            spool_db = resolve_spool_db(gateway.spool_db, None, server.data_dir, "Gateway.SpoolDB", report)
        elif server.is_service:
            services = resolve_services(service_node.kaetzchen, service_node.plugins, "ServiceNode", report)
        return NodeConfig(
            halves=halves,
            data_dir=server.data_dir,
            wire_kem=wire_kem,
            signature_scheme=scheme,
            epoch_duration=server.epoch_duration,
            metrics_address=self.metrics_address(),
            persist_mix_keys=server.persist_mix_keys,
            persist_mix_keys_dir=self.persist_dir(),
            management_path=self.management_path(file.management),
            logging=resolve_logging(file.logging, server.data_dir, report),
            authorities=self.authorities(file.pki or PKITable(), scheme, wire_kem),
            geometry=geometry,
            debug=resolve_debug(file.debug, self.older),
            services=services,
            users=users,
            user_db=user_db,
            spool_db=spool_db,
        )

    # Everything else of the file -----------------------------------------------------------------------------------

    def metrics_address(self) -> tuple[str, int] | None:
        if not self.server.metrics_address:
            return None
        try:
            return check_hostport(self.server.metrics_address, self.server.allow_hostnames)
        except ConfigError as e:
            self.report.error(f"config: Server: MetricsAddress {e}", "Server.MetricsAddress")
            return None

    def persist_dir(self) -> str:
        path = self.server.persist_mix_keys_dir
        where = "Server.PersistMixKeysOnShutdownDir"
        if path and not self.server.persist_mix_keys:
            self.report.error(
                "PersistMixKeysOnShutdownDir is set but PersistMixKeysOnShutdown is not enabled",
                where,
                "Server.PersistMixKeysOnShutdown",
            )
        elif path and not path.startswith("/"):
            self.report.error(f"PersistMixKeysOnShutdownDir '{path}' is not an absolute path", where)
        return path

    def management_path(self, table: ManagementTable | None) -> str | None:
        """The socket's path; None when management is off (spec: provider 1.5)."""
        if table is None:
            return None
        on = table.enable and not table.disable if table.enable is not None else table.disable is False
        if not on:
            return None
        if table.path and not table.path.startswith("/"):
            self.report.error(f"config: Management: Path '{table.path}' is not an absolute path", "Management.Path")
        return table.path or str(PurePosixPath(self.server.data_dir) / "management_sock")

    def authorities(self, pki: PKITable, scheme: str, wire_kem: str) -> tuple[Authority, ...]:
        if pki.nonvoting is not None and pki.voting is not None:
            self.report.error("pki config failure: cannot configure voting and nonvoting pki", "PKI")
            return ()
        if pki.voting is not None:
            return resolve_authorities(
                pki.voting.authorities, "PKI.Voting.Authorities", self.server.allow_hostnames, self.report
            )
        if pki.nonvoting is None:
            self.report.error(
                "config: Exactly one authority backend should be configured, got: 0",
                "PKI",
                "PKI.Voting",
                "PKI.Nonvoting",
            )
            return ()
        authority = self.nonvoting(pki.nonvoting, scheme, wire_kem)
        return (authority,) if authority else ()

    def nonvoting(self, table: NonvotingTable, scheme: str, wire_kem: str) -> Authority | None:
        before = len(self.report.errors)
        where, invalid = "PKI.Nonvoting.Address", "config: PKI/Nonvoting: Address is invalid: "
        if not table.address:
            self.report.error(f"{invalid}is not set", where)
        texts = (table.address,) if table.address else ()
        addresses = parse_addresses(texts, where, self.server.allow_hostnames, self.report, invalid, older=True)
        for address in addresses:
            if mistake := family_mistake(address):
                self.report.error(f"{invalid}{mistake}", where)
        identity = link = None
        if scheme:
            identity = self.authority_key(table.public_key, table.public_key_pem, "PublicKey", sign.by_name(scheme))
            if identity is None and len(self.report.errors) == before:
                self.report.error("config: PKI/Nonvoting: Invalid PublicKey: is not set", "PKI.Nonvoting.PublicKey")
        if wire_kem:
            link = self.authority_key(
                table.link_public_key, table.link_public_key_pem, "LinkPublicKey", kem.by_name(wire_kem)
            )
        if len(self.report.errors) > before or identity is None:
            return None
        return Authority(
            identifier="authority",
            identity_key=identity,
            signature_scheme=scheme,
            link_key=link,
            wire_kem=wire_kem,
            addresses=addresses,
        )

    def authority_key(self, text: str, file: str, name: str, scheme: keys.KeyScheme) -> bytes | None:
        """A key given as text, or as the name of a PEM file; None when neither is there."""
        where = f"PKI.Nonvoting.{name}"
        if not text and file:
            where += "Pem"
            path = str(PurePosixPath(self.server.data_dir) / file)
            try:
                if self.read_file is None:
                    raise OSError("files can not be read here")
                text = self.read_file(path)
            except (OSError, UnicodeDecodeError) as e:
                self.report.error(f"can not read {path!r}: {e}", where)
                return None
        if not text:
            return None
        try:
            return parse_key(text, (scheme.public_key_size,), scheme)
        except ConfigError as e:
            self.report.error(f"config: PKI/Nonvoting: Invalid {name}: {e}", where)
            return None
