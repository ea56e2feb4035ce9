"""The tables of ``katzenpost.toml`` as written, in both shapes (spec: node 2, provider 1)."""

from __future__ import annotations

from typing import Any

import attrs

from katzentwist.config import schema
from katzentwist.config.common import AuthorityTable, LoggingTable
from katzentwist.config.schema import key


@attrs.frozen(kw_only=True)
class ServerTable:
    """The node itself."""

    identifier: str = key(
        "Identifier", schema.text, "Name of the node, at most 32 bytes.", default="", default_text="mandatory"
    )
    wire_kem: str = key(
        "WireKEM",
        schema.text,
        "KEM of all links of the network.",
        default="",
        default_text="mandatory; `x25519` for a Provider",
    )
    signature_scheme: str = key(
        "PKISignatureScheme",
        schema.text,
        "Signature scheme of the network.",
        default="",
        default_text="mandatory; `Ed25519` for a Provider",
    )
    addresses: tuple[str, ...] | None = key(
        "Addresses",
        schema.texts,
        "URLs to advertise, and to listen on unless BindAddresses is set.",
        default_text="`tcp://` first public IPv4 address `:3219`",
    )
    bind_addresses: tuple[str, ...] = key(
        "BindAddresses", schema.texts, "URLs to listen on instead of Addresses.", default=()
    )
    alt_addresses: dict[str, tuple[str, ...]] = key(
        "AltAddresses", schema.address_table, "More addresses to advertise, by transport.", default={}
    )
    only_alt: bool = key("OnlyAdvertiseAltAddresses", schema.boolean, "Advertise AltAddresses only.", default=False)
    metrics_address: str = key("MetricsAddress", schema.text, "host:port of the Prometheus metrics.", default="")
    data_dir: str = key(
        "DataDir", schema.text, "Absolute path of keys and databases, mode 0700.", default="", default_text="mandatory"
    )
    epoch_duration: str = key(
        "EpochDuration", schema.text, "Ours: epoch length, such as 2m.", default="", default_text="20m"
    )
    is_provider: bool = key(
        "IsProvider", schema.boolean, "Run a Provider: gateway half and service half.", default=False
    )
    is_gateway: bool = key("IsGatewayNode", schema.boolean, "Run a gateway.", default=False)
    is_service: bool = key("IsServiceNode", schema.boolean, "Run a service node.", default=False)
    allow_hostnames: bool = key(
        "AllowHostnameAddresses", schema.boolean, "Accept host names where an IP address is due.", default=False
    )
    persist_mix_keys: bool = key(
        "PersistMixKeysOnShutdown", schema.boolean, "Keep mix keys and replay tags over a restart.", default=False
    )
    persist_mix_keys_dir: str = key(
        "PersistMixKeysOnShutdownDir",
        schema.text,
        "Absolute path for them.",
        default="",
        default_text="`/dev/shm/katzenpost-mixkeys-<node id>`",
    )


@attrs.frozen(kw_only=True)
class ManagementTable:
    """The management socket."""

    enable: bool | None = key("Enable", schema.boolean, "Listen on the management socket.", default_text="false")
    disable: bool | None = key("Disable", schema.boolean, "The older word; true wins over Enable.")
    path: str = key(
        "Path", schema.text, "Absolute path of the socket.", default="", default_text="`<DataDir>/management_sock`"
    )


@attrs.frozen(kw_only=True)
class DebugTable:
    """Sizes and time limits of the packet path, in milliseconds; 0 means the default."""

    identity_key: str = key(
        "IdentityKey", schema.text, "Identity private key in place of the file; tests only.", default=""
    )
    num_sphinx_workers: int = key(
        "NumSphinxWorkers", schema.workers, "Unwrapping workers.", default=0, default_text="CPUs"
    )
    num_provider_workers: int = key(
        "NumProviderWorkers", schema.workers, "Workers for packets that end at a Provider.", default=0, default_text="1"
    )
    num_gateway_workers: int = key(
        "NumGatewayWorkers", schema.workers, "Gateway workers.", default=0, default_text="CPUs / 2"
    )
    num_service_workers: int = key(
        "NumServiceWorkers", schema.workers, "Service workers.", default=0, default_text="CPUs / 2"
    )
    num_kaetzchen_workers: int = key(
        "NumKaetzchenWorkers",
        schema.workers,
        "Workers of built-in services.",
        default=0,
        default_text="CPUs / 2; 3 for a Provider",
    )
    external_queue: bool = key(
        "SchedulerExternalMemoryQueue",
        schema.boolean,
        "Keep delayed packets on disk instead of in memory.",
        default=False,
    )
    scheduler_queue_size: int = key(
        "SchedulerQueueSize", schema.integer, "Most delayed packets; 0: 262144 in memory.", default=0
    )
    scheduler_max_burst: int = key(
        "SchedulerMaxBurst",
        schema.integer,
        "Packets dispatched per wake-up.",
        default=0,
        default_text="from the self-check",
    )
    unwrap_delay: int = key(
        "UnwrapDelay", schema.milliseconds, "Longest wait for unwrapping.", default=0, default_text="250"
    )
    provider_delay: int = key(
        "ProviderDelay", schema.milliseconds, "Longest wait for a Provider worker.", default=0, default_text="500"
    )
    gateway_delay: int = key(
        "GatewayDelay", schema.milliseconds, "Longest wait for a gateway worker.", default=0, default_text="500"
    )
    service_delay: int = key(
        "ServiceDelay", schema.milliseconds, "Longest wait for a service worker.", default=0, default_text="500"
    )
    kaetzchen_delay: int = key(
        "KaetzchenDelay",
        schema.milliseconds,
        "Longest time until a service begins with a request.",
        default=0,
        default_text="750",
    )
    scheduler_slack: int = key(
        "SchedulerSlack",
        schema.milliseconds,
        "A packet later than this is dropped; at least 450.",
        default=0,
        default_text="450",
    )
    send_slack: int = key(
        "SendSlack", schema.milliseconds, "Longest wait in a send queue; at least 50.", default=0, default_text="50"
    )
    decoy_slack: int = key(
        "DecoySlack", schema.milliseconds, "A decoy later than this is lost.", default=0, default_text="15000"
    )
    connect_timeout: int = key(
        "ConnectTimeout", schema.milliseconds, "Longest time to connect.", default=0, default_text="60000"
    )
    handshake_timeout: int = key(
        "HandshakeTimeout",
        schema.milliseconds,
        "Longest handshake.",
        default=0,
        default_text="3000; 30000 for a Provider",
    )
    reauth_interval: int = key(
        "ReauthInterval", schema.milliseconds, "How often peers are checked again.", default=0, default_text="30000"
    )
    send_decoy_traffic: bool = key("SendDecoyTraffic", schema.boolean, "Send loop decoys.", default=False)
    disable_rate_limit: bool = key("DisableRateLimit", schema.boolean, "No rate limit for clients.", default=False)
    generate_only: bool = key("GenerateOnly", schema.boolean, "Make keys and stop, like -g.", default=False)


@attrs.frozen(kw_only=True)
class NonvotingTable:
    """The one authority of a network without voting (spec: provider 1.3)."""

    address: str = key("Address", schema.text, "`ip:port` or URL.", default="", default_text="mandatory")
    public_key: str = key(
        "PublicKey", schema.text, "Identity key: hex, base64 or PEM.", default="", default_text="mandatory"
    )
    public_key_pem: str = key("PublicKeyPem", schema.text, "File of the identity key, relative to DataDir.", default="")
    link_public_key: str = key(
        "LinkPublicKey",
        schema.text,
        "Link key: hex, base64 or PEM.",
        default="",
        default_text="any link key is accepted",
    )
    link_public_key_pem: str = key(
        "LinkPublicKeyPem", schema.text, "File of the link key, relative to DataDir.", default=""
    )


@attrs.frozen(kw_only=True)
class VotingTable:
    """The authorities of a voting network; one alone is fine."""

    authorities: tuple[AuthorityTable, ...] = key(
        "Authorities", schema.tables_of(AuthorityTable), "One entry each.", default=()
    )


@attrs.frozen(kw_only=True)
class PKITable:
    """Where documents come from: exactly one of the two."""

    nonvoting: NonvotingTable | None = key("Nonvoting", schema.table_of(NonvotingTable), "One authority.")
    voting: VotingTable | None = key("Voting", schema.table_of(VotingTable), "Authorities that vote.")


@attrs.frozen(kw_only=True)
class KaetzchenTable:
    """A built-in service."""

    capability: str = key(
        "Capability", schema.text, "Name that clients look for.", default="", default_text="mandatory"
    )
    endpoint: str = key("Endpoint", schema.text, "Recipient name, such as +echo.", default="", default_text="mandatory")
    config: dict[str, Any] = key("Config", schema.free_table, "Handed to the service.", default={})
    disable: bool = key("Disable", schema.boolean, "Do not run it.", default=False)


@attrs.frozen(kw_only=True)
class PluginTable:
    """A service that runs as a program of its own."""

    capability: str = key(
        "Capability", schema.text, "Name that clients look for.", default="", default_text="mandatory"
    )
    endpoint: str = key("Endpoint", schema.text, "Recipient name, such as +zec.", default="", default_text="mandatory")
    command: str = key("Command", schema.text, "Path of the executable.", default="", default_text="mandatory")
    config: dict[str, Any] | None = key(
        "Config", schema.free_table, "Arguments: `-key value` for each entry.", default_text="empty"
    )
    disable: bool = key("Disable", schema.boolean, "Do not run it.", default=False)
    max_concurrency: int = key("MaxConcurrency", schema.workers, "Processes that share its queue.", default=1)
    advertised_data: dict[str, Any] = key(
        "PKIAdvertizedData", schema.free_table, "Sub-table named like Capability goes into the descriptor.", default={}
    )
    protocol: str = key(
        "Protocol", schema.one_of("auto", "async", "sync"), "Ours: which plugin protocol it speaks.", default="auto"
    )


@attrs.frozen(kw_only=True)
class BoltUserTable:
    """The embedded user database."""

    user_db: str = key("UserDB", schema.text, "File; relative names lie in DataDir.", default="users.db")


@attrs.frozen(kw_only=True)
class BoltSpoolTable:
    """The embedded spool database."""

    spool_db: str = key("SpoolDB", schema.text, "File; relative names lie in DataDir.", default="spool.db")


@attrs.frozen(kw_only=True)
class ExternTable:
    """The HTTP user database."""

    url: str = key(
        "ProviderURL", schema.text, "http or https URL.", default="", aliases=("GatewayURL",), default_text="mandatory"
    )


@attrs.frozen(kw_only=True)
class UserDBTable:
    """Where users are kept."""

    backend: str = key("Backend", schema.text, "`bolt`, `extern` or `sql`.", default="", default_text="bolt")
    bolt: BoltUserTable | None = key("Bolt", schema.table_of(BoltUserTable), "Settings of bolt.")
    extern: ExternTable | None = key(
        "Extern", schema.table_of(ExternTable), "Settings of extern.", aliases=("ExternUserDB",)
    )


@attrs.frozen(kw_only=True)
class SpoolDBTable:
    """Where messages wait."""

    backend: str = key("Backend", schema.text, "`bolt` or `sql`.", default="", default_text="bolt")
    bolt: BoltSpoolTable | None = key("Bolt", schema.table_of(BoltSpoolTable), "Settings of bolt.")


@attrs.frozen(kw_only=True)
class SQLDBTable:
    """The PostgreSQL server for backends `sql`."""

    backend: str = key("Backend", schema.text, "`pgx`.", default="", default_text="mandatory")
    data_source_name: str = key(
        "DataSourceName", schema.text, "URI or key=value text.", default="", default_text="mandatory"
    )


@attrs.frozen(kw_only=True)
class ProviderTable:
    """Only with IsProvider."""

    ephemeral: bool = key(
        "EnableEphemeralClients", schema.boolean, "Let unknown clients in, for a while.", default=False
    )
    tofu: bool = key(
        "TrustOnFirstUse", schema.boolean, "Let unknown clients in, and keep their first key.", default=False
    )
    alt_addresses: dict[str, tuple[str, ...]] = key(
        "AltAddresses", schema.address_table, "More addresses for clients, by transport.", default={}
    )
    service_identifier: str = key(
        "ServiceIdentifier",
        schema.text,
        "Ours: name of the service half.",
        default="",
        default_text="Identifier + `-service`",
    )
    service_addresses: tuple[str, ...] | None = key(
        "ServiceAddresses", schema.texts, "Ours: URLs of the service half.", default_text="Addresses, every port + 1"
    )
    service_bind_addresses: tuple[str, ...] | None = key(
        "ServiceBindAddresses",
        schema.texts,
        "Ours: URLs the service half listens on.",
        default_text="BindAddresses, every port + 1",
    )
    kaetzchen: tuple[KaetzchenTable, ...] = key(
        "Kaetzchen", schema.tables_of(KaetzchenTable), "Built-in services.", default=()
    )
    plugins: tuple[PluginTable, ...] = key(
        "CBORPluginKaetzchen", schema.tables_of(PluginTable), "Plugin services.", default=()
    )
    plugin_kaetzchen: Any = key("PluginKaetzchen", lambda v, p, r: v, "Older spelling of CBORPluginKaetzchen.")
    user_db: UserDBTable | None = key("UserDB", schema.table_of(UserDBTable), "User database.")
    spool_db: SpoolDBTable | None = key("SpoolDB", schema.table_of(SpoolDBTable), "Spool database.")
    sql_db: SQLDBTable | None = key("SQLDB", schema.table_of(SQLDBTable), "SQL server.")
    binary_recipients: bool = key(
        "BinaryRecipients", schema.boolean, "User names are bytes that are taken as they are.", default=False
    )
    case_sensitive_recipients: bool = key(
        "CaseSensitiveRecipients", schema.boolean, "Upper and lower case make different user names.", default=False
    )
    recipient_delimiter: str = key(
        "RecipientDelimiter", schema.text, "Mail for `user<delimiter>anything` is for `user`.", default=""
    )


@attrs.frozen(kw_only=True)
class GatewayTable:
    """Only with IsGatewayNode."""

    alt_addresses: dict[str, tuple[str, ...]] = key(
        "AltAddresses", schema.address_table, "Accepted and not used, as upstream.", default={}
    )
    spool_db: SpoolDBTable | None = key("SpoolDB", schema.table_of(SpoolDBTable), "Spool database.")


@attrs.frozen(kw_only=True)
class ServiceNodeTable:
    """Only with IsServiceNode."""

    kaetzchen: tuple[KaetzchenTable, ...] = key(
        "Kaetzchen", schema.tables_of(KaetzchenTable), "Built-in services.", default=()
    )
    plugins: tuple[PluginTable, ...] = key(
        "CBORPluginKaetzchen", schema.tables_of(PluginTable), "Plugin services.", default=()
    )


@attrs.frozen(kw_only=True)
class NodeFile:
    """A node: mix, gateway, service node or Provider."""

    server: ServerTable | None = key("Server", schema.table_of(ServerTable), "The node itself.")
    pki: PKITable | None = key("PKI", schema.table_of(PKITable), "Where documents come from.")
    logging: LoggingTable | None = key("Logging", schema.table_of(LoggingTable), "The log.")
    management: ManagementTable | None = key("Management", schema.table_of(ManagementTable), "The management socket.")
    debug: DebugTable | None = key("Debug", schema.table_of(DebugTable), "Sizes and limits.")
    provider: ProviderTable | None = key("Provider", schema.table_of(ProviderTable), "Provider.")
    gateway: GatewayTable | None = key("Gateway", schema.table_of(GatewayTable), "Gateway.")
    service_node: ServiceNodeTable | None = key("ServiceNode", schema.table_of(ServiceNodeTable), "Service node.")
    geometry: dict[str, Any] | None = key("SphinxGeometry", schema.free_table, "The network's Sphinx geometry.")
