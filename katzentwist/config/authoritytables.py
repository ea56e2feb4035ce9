"""The tables of ``authority.toml``: every key of both shapes (spec: pki 10.6, 12.2, 12.4)."""

from __future__ import annotations

from typing import Any

import attrs

from katzentwist.config import schema
from katzentwist.config.common import AuthorityTable, LoggingTable
from katzentwist.config.schema import key

DEFAULT_RATE = 0.00025
"""Each rate that is 0 or absent, in events per millisecond."""


@attrs.frozen(kw_only=True)
class ServerTable:
    """The authority itself: ``[Server]``, or ``[Authority]`` in files before v0.0.20."""

    identifier: str = key("Identifier", schema.text, "Name, for the log.", default="auth1")
    wire_kem: str = key(
        "WireKEMScheme",
        schema.text,
        "KEM of the links, equal in the whole network. Mandatory beside [[Authorities]].",
        default="",
        default_text="x25519",
    )
    signature_scheme: str = key(
        "PKISignatureScheme",
        schema.text,
        "Signature scheme of the network. Mandatory beside [[Authorities]].",
        default="",
        default_text="Ed25519",
    )
    addresses: tuple[str, ...] | None = key(
        "Addresses",
        schema.texts,
        "Where nodes and clients find it: IP:port, or URLs tcp:// and quic://.",
        default_text="the first public IPv4 address, port 62472",
    )
    bind_addresses: tuple[str, ...] = key(
        "BindAddresses", schema.texts, "Where to listen, if elsewhere than at Addresses.", default=()
    )
    data_dir: str = key("DataDir", schema.text, "Absolute path of keys and state; mode 0700.", default="")
    epoch_duration: str = key(
        "EpochDuration", schema.text, "Ours: length of an epoch, equal in the whole network.", default="20m"
    )
    dial_timeout: int = key("DialTimeoutSec", schema.integer, "No effect: there are no peers to dial.", default=0)
    handshake_timeout: int = key("HandshakeTimeoutSec", schema.integer, "Seconds for a handshake.", default=3)
    response_timeout: int = key("ResponseTimeoutSec", schema.integer, "Seconds for a command.", default=30)
    close_delay: int = key("CloseDelaySec", schema.integer, "No effect, as upstream.", default=0)
    retry_attempts: int = key("PeerRetryMaxAttempts", schema.integer, "No effect: there are no peers.", default=0)
    retry_base: Any = key("PeerRetryBaseDelay", schema.text, "No effect: there are no peers.", default="")
    retry_max: Any = key("PeerRetryMaxDelay", schema.text, "No effect: there are no peers.", default="")
    retry_jitter: float = key("PeerRetryJitter", schema.number, "No effect: there are no peers.", default=0.0)
    disable_ipv4: bool = key("DisableIPv4", schema.boolean, "Do not listen on IPv4 addresses.", default=False)
    disable_ipv6: bool = key("DisableIPv6", schema.boolean, "Do not listen on IPv6 addresses.", default=False)
    metrics_address: str = key("MetricsAddress", schema.text, "host:port of the metrics page; empty: none.", default="")
    allow_hostnames: bool = key(
        "AllowHostnameAddresses", schema.boolean, "Allow host names in addresses, for test networks.", default=False
    )


@attrs.frozen(kw_only=True)
class ParametersTable:
    """The rates that the document announces, in events per millisecond; 0 means the default."""

    mu: float = key("Mu", schema.number, "Delay at each hop.", default=0.0, default_text=str(DEFAULT_RATE))
    lambda_p: float = key("LambdaP", schema.number, "Sends of clients.", default=0.0, default_text=str(DEFAULT_RATE))
    lambda_l: float = key("LambdaL", schema.number, "Loops of clients.", default=0.0, default_text=str(DEFAULT_RATE))
    lambda_m: float = key("LambdaM", schema.number, "Loops of mixes.", default=0.0, default_text=str(DEFAULT_RATE))
    lambda_r: float = key("LambdaR", schema.number, "Decoys of replicas.", default=0.0, default_text=str(DEFAULT_RATE))
    send_rate: int = key("SendRatePerMinute", schema.integer, "Older files; has no place in a document.", default=0)
    lambda_d: float = key("LambdaD", schema.number, "Older files; has no place in a document.", default=0.0)
    mu_max: int = key("MuMaxDelay", schema.integer, "Older files; has no place in a document.", default=0)
    lambda_p_max: int = key("LambdaPMaxDelay", schema.integer, "Older files; has no place in a document.", default=0)
    lambda_l_max: int = key("LambdaLMaxDelay", schema.integer, "Older files; has no place in a document.", default=0)
    lambda_d_max: int = key("LambdaDMaxDelay", schema.integer, "Older files; has no place in a document.", default=0)
    lambda_m_max: int = key("LambdaMMaxDelay", schema.integer, "Older files; has no place in a document.", default=0)


@attrs.frozen(kw_only=True)
class DebugTable:
    """The form of the network."""

    layers: int = key("Layers", schema.integer, "Mix layers, at most 3.", default=3)
    min_nodes: int = key("MinNodesPerLayer", schema.integer, "Fewest mixes in a layer.", default=2)
    generate_only: bool = key("GenerateOnly", schema.boolean, "Make the keys and stop, as -g.", default=False)
    bootstrap: bool = key(
        "BootstrapCurrentEpoch",
        schema.boolean,
        "Ours: in the first epoch also publish for the current one, once all nodes uploaded for it. Networks of "
        "katzentwist nodes only.",
        default=False,
    )


@attrs.frozen(kw_only=True)
class NodeTable:
    """A node of the white list."""

    identifier: str = key("Identifier", schema.text, "Its name; a mix may leave it out.", default="")
    key_file: str = key(
        "IdentityPublicKeyPem",
        schema.text,
        "File of its identity key, relative to DataDir, or the PEM text itself.",
        default="",
        aliases=("IdentityKeyPem",),
    )
    key_text: str = key("IdentityKey", schema.text, "Its identity key in base64 or hex, instead.", default="")


@attrs.frozen(kw_only=True)
class ProviderTable(NodeTable):
    """A Provider: a gateway and a service node. Without the second identity, either of the two."""

    service_key_file: str = key(
        "ServiceIdentityKeyPem",
        schema.text,
        "Ours: file of the identity key of its service half.",
        default="",
        aliases=("ServiceIdentityPublicKeyPem",),
    )
    service_identifier: str = key(
        "ServiceIdentifier",
        schema.text,
        "Ours: name of its service half.",
        default="",
        default_text="Identifier + -service",
    )


@attrs.frozen(kw_only=True)
class LayerTable:
    """The nodes of a fixed layer; they are in [[Mixes]] too."""

    nodes: tuple[NodeTable, ...] = key("Nodes", schema.tables_of(NodeTable), "Its nodes.", default=())


@attrs.frozen(kw_only=True)
class TopologyTable:
    """Fixed layers; without this table mixes are put into layers at random and stay there."""

    layers: tuple[LayerTable, ...] = key("Layers", schema.tables_of(LayerTable), "The layers in order.", default=())


@attrs.frozen(kw_only=True)
class AuthorityFile:
    """The whole file."""

    server: ServerTable | None = key("Server", schema.table_of(ServerTable), "The authority.")
    authority: ServerTable | None = key(
        "Authority", schema.table_of(ServerTable), "The same under its name before v0.0.20."
    )
    authorities: tuple[AuthorityTable, ...] = key(
        "Authorities", schema.tables_of(AuthorityTable), "Only our own entry, as files of v0.0.99 have it.", default=()
    )
    logging: LoggingTable | None = key("Logging", schema.table_of(LoggingTable), "The log.")
    parameters: ParametersTable | None = key("Parameters", schema.table_of(ParametersTable), "The rates.")
    debug: DebugTable | None = key("Debug", schema.table_of(DebugTable), "The form of the network.")
    mixes: tuple[NodeTable, ...] = key("Mixes", schema.tables_of(NodeTable), "The mixes.", default=())
    gateways: tuple[NodeTable, ...] = key("GatewayNodes", schema.tables_of(NodeTable), "The gateways.", default=())
    service_nodes: tuple[NodeTable, ...] = key(
        "ServiceNodes", schema.tables_of(NodeTable), "The service nodes.", default=()
    )
    providers: tuple[ProviderTable, ...] = key(
        "Providers", schema.tables_of(ProviderTable), "The Providers.", default=()
    )
    replicas: tuple[Any, ...] | None = key(
        "StorageReplicas", lambda value, _path, _report: value, "Not supported.", default=None
    )
    topology: TopologyTable | None = key("Topology", schema.table_of(TopologyTable), "Fixed layers.")
    geometry: dict[str, Any] | None = key(
        "SphinxGeometry",
        schema.free_table,
        "The Sphinx geometry of the network. Mandatory beside [[Authorities]].",
        default_text="5 hops, x25519, payloads of 2000 bytes",
    )
