"""The files of a whole network, from its shape: configuration and keys of every program (design 2, genconfig).

The result is a tree that ``testnet --dir``, systemd or containers can run::

    DIR/auth1/authority.toml
    DIR/mix1/katzenpost.toml ...
    DIR/provider1/katzenpost.toml ...      DIR/gateway1/ ...   DIR/servicenode1/ ...
    DIR/client/client.toml                 DIR/client/thinclient.toml
"""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any, Final, cast

import attrs

from katzentwist.client.tool import read_config
from katzentwist.clock import parse_duration
from katzentwist.config import toml
from katzentwist.config.client import Socket
from katzentwist.crypto import kem, keys, sign
from katzentwist.errors import ConfigError
from katzentwist.node.keyfiles import KeyPair, load_or_create, prepare_data_dir, write_file
from katzentwist.randomness import IRandom, SystemRandom
from katzentwist.sphinx import Geometry

SIGNATURE: Final = "Ed25519"
HOST: Final = "127.0.0.1"
AUTHORITY_FILE: Final = "authority.toml"
NODE_FILE: Final = "katzenpost.toml"
FREE_PORTS: Final = range(10_000, 32_000)
"""Below those that systems give to outgoing connections: such a port may be taken until its program listens."""


@attrs.frozen(kw_only=True)
class Shape:
    """What a network consists of.

    :ivar epoch: duration text.
    :ivar base_port: the first of consecutive ports; 0 picks free ones.
    """

    mixes: int = 3
    layers: int = 3
    providers: int = 1
    gateways: int = 0
    service_nodes: int = 0
    epoch: str = "2m"
    base_port: int = 0
    wire_kem: str = "xwing"
    user_payload: int = 2000
    mu: float = 0.005
    lambda_p: float = 0.001
    lambda_l: float = 0.0005
    lambda_m: float = 0.0005
    log_level: str = "NOTICE"

    def check(self) -> None:
        """:raises ConfigError: such a network can not work."""
        if not 1 <= self.layers <= 3:
            raise ConfigError(f"--layers {self.layers}: must be 1 to 3")
        if self.mixes < self.layers:
            raise ConfigError(f"--mixes {self.mixes}: {self.layers} layers need at least as many mixes")
        if self.providers + self.gateways < 1:
            raise ConfigError("a network needs at least one gateway or Provider")
        if self.providers + self.service_nodes < 1:
            raise ConfigError("a network needs at least one service node or Provider")
        if parse_duration(self.epoch) < 5 * 10**9:
            raise ConfigError(f"--epoch {self.epoch}: epochs under 5 s leave no time to agree on a document")
        kem.by_name(self.wire_kem)


@attrs.define
class Node:
    """One program of the network."""

    name: str
    role: str
    folder: Path
    config: Path
    addresses: list[str]
    metrics: str


@attrs.define
class Network:
    """The programs of a tree, in the order in which they are started."""

    folder: Path
    epoch: str
    nodes: list[Node]
    client: Path

    def daemon(self) -> Node:
        """The client daemon, which applications dial.

        :raises ToolError: see :func:`~katzentwist.client.tool.read_file`.
        """
        config = self.client / "client.toml"
        return Node("client", "client daemon", self.client, config, [self.listener().address], "")

    def listener(self) -> Socket:
        """Where applications dial it.

        :raises ToolError: see :meth:`daemon`.
        """
        return cast("Socket", read_config(self.client / "client.toml").listen)  # without, the file has a mistake


def generate(folder: Path, shape: Shape) -> Network:
    """Write the tree.

    :raises ConfigError: the shape can not work, or the folder holds a tree already.
    """
    shape.check()
    folder = folder.resolve()
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty; choose another folder, or run this one with testnet --dir {folder}")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return _Writer(folder, shape).network()


class _Writer:
    def __init__(self, folder: Path, shape: Shape) -> None:
        self._folder, self._shape = folder, shape
        self._random = SystemRandom()
        self._ports = Ports(shape.base_port, self._random)
        self._geometry = Geometry.from_user_payload(shape.user_payload, shape.layers + 2, nike="x25519")
        self._authority: dict[str, Any] = {}

    def network(self) -> Network:
        authority = self._new("auth1", "authority", AUTHORITY_FILE)
        identity, link = self._pairs(authority.folder)
        self._authority = {
            "Identifier": authority.name,
            "IdentityPublicKey": keys.encode_public(sign.by_name(SIGNATURE), identity.public),
            "PKISignatureScheme": SIGNATURE,
            "LinkPublicKey": keys.encode_public(kem.by_name(self._shape.wire_kem), link.public),
            "WireKEMScheme": self._shape.wire_kem,
            "Addresses": authority.addresses,
        }
        mixes = [self._node(f"mix{i + 1}", "mix") for i in range(self._shape.mixes)]
        gateways = [self._node(f"gateway{i + 1}", "gateway") for i in range(self._shape.gateways)]
        services = [self._node(f"servicenode{i + 1}", "service node") for i in range(self._shape.service_nodes)]
        providers = [self._node(f"provider{i + 1}", "provider") for i in range(self._shape.providers)]
        self._write_authority(authority, mixes, gateways, services, providers)
        client = self._write_client()
        nodes = [authority, *mixes, *gateways, *services, *providers]
        return Network(self._folder, self._shape.epoch, nodes, client)

    def _new(self, name: str, role: str, file: str) -> Node:
        folder = prepare_data_dir(str(self._folder / name), "--out")
        # The service half of a Provider has the port after its gateway half's.
        port = self._ports.take(2 if role == "provider" else 1)
        metrics = "" if role == "authority" else f"{HOST}:{self._ports.take(1)}"
        return Node(name, role, folder, folder / file, [f"tcp://{HOST}:{port}"], metrics)

    def _pairs(self, folder: Path) -> tuple[KeyPair, KeyPair]:
        prepare_data_dir(str(folder), "--out")
        identity = load_or_create(folder, "identity", sign.by_name(SIGNATURE), self._random)
        return identity, load_or_create(folder, "link", kem.by_name(self._shape.wire_kem), self._random)

    def _node(self, name: str, role: str) -> Node:
        node = self._new(name, role, NODE_FILE)
        self._pairs(node.folder)
        if role == "provider":
            self._pairs(node.folder / "service")
        server: dict[str, Any] = {
            "Identifier": name,
            "WireKEM": self._shape.wire_kem,
            "PKISignatureScheme": SIGNATURE,
            "Addresses": node.addresses,
            "MetricsAddress": node.metrics,
            "DataDir": str(node.folder),
            "EpochDuration": self._shape.epoch,
            "PersistMixKeysOnShutdown": True,
            "PersistMixKeysOnShutdownDir": str(node.folder / "mixkeys"),
        }
        tables: dict[str, Any] = {
            "Server": server,
            "PKI": {"Voting": {"Authorities": [self._authority]}},
            "Logging": {"Level": self._shape.log_level},
            "Management": {"Enable": True},
            "SphinxGeometry": self._geometry.to_toml(),
        }
        services = [{"Capability": "echo", "Endpoint": "+echo"}]
        if role == "gateway":
            server["IsGatewayNode"] = True
        elif role == "service node":
            server["IsServiceNode"] = True
            tables["ServiceNode"] = {"Kaetzchen": services}
        elif role == "provider":
            server["IsProvider"] = True
            keyserver = {"Capability": "keyserver", "Endpoint": "+keyserver"}
            tables["Provider"] = {
                "EnableEphemeralClients": True,
                "TrustOnFirstUse": True,
                "Kaetzchen": [*services, keyserver],
            }
        write_file(node.config, toml.dump(tables))
        return node

    def _write_authority(
        self, node: Node, mixes: list[Node], gateways: list[Node], services: list[Node], providers: list[Node]
    ) -> None:
        shape = self._shape

        def entry(member: Node) -> dict[str, Any]:
            return {"Identifier": member.name, "IdentityPublicKeyPem": _public(member.folder)}

        tables: dict[str, Any] = {
            "Server": {
                "Identifier": node.name,
                "WireKEMScheme": shape.wire_kem,
                "PKISignatureScheme": SIGNATURE,
                "Addresses": node.addresses,
                "DataDir": str(node.folder),
                "EpochDuration": shape.epoch,
            },
            "Logging": {"Level": shape.log_level},
            "Parameters": {
                "Mu": shape.mu,
                "LambdaP": shape.lambda_p,
                "LambdaL": shape.lambda_l,
                "LambdaM": shape.lambda_m,
            },
            "Debug": {
                "Layers": shape.layers,
                "MinNodesPerLayer": max(1, shape.mixes // shape.layers),
                "BootstrapCurrentEpoch": True,
            },
            "SphinxGeometry": self._geometry.to_toml(),
            "Mixes": [entry(m) for m in mixes],
        }
        if gateways:
            tables["GatewayNodes"] = [entry(g) for g in gateways]
        if services:
            tables["ServiceNodes"] = [entry(s) for s in services]
        if providers:
            tables["Providers"] = [
                {
                    "Identifier": p.name,
                    "IdentityKeyPem": _public(p.folder),
                    "ServiceIdentityKeyPem": _public(p.folder / "service"),
                }
                for p in providers
            ]
        write_file(node.config, toml.dump(tables))

    def _write_client(self) -> Path:
        folder = prepare_data_dir(str(self._folder / "client"), "--out")
        address = f"{HOST}:{self._ports.take(1)}"
        entries = [e for e in sorted(self._folder.iterdir()) if e.name.startswith(("gateway", "provider"))]
        tables = {
            "PKISignatureScheme": SIGNATURE,
            "WireKEMScheme": self._shape.wire_kem,
            "EpochDuration": self._shape.epoch,
            "Listen": {"Tcp": {"Address": address}},
            "Logging": {"Level": self._shape.log_level},
            "SphinxGeometry": self._geometry.to_toml(),
            "UpstreamProxy": {"Type": "none"},
            "VotingAuthority": {"Peers": [self._authority]},
            "PinnedGateways": {"Gateways": [self._pinned(e) for e in entries]},
        }
        write_file(folder / "client.toml", toml.dump(tables))
        # Published thin clients refuse every other key here.
        thin = {"Dial": {"Tcp": {"Address": address, "Network": "tcp"}}}
        write_file(folder / "thinclient.toml", toml.dump(thin))
        return folder

    def _pinned(self, folder: Path) -> dict[str, Any]:
        server = toml.parse((folder / NODE_FILE).read_text("utf-8"))["Server"]
        return {
            "Name": server["Identifier"],
            "PKISignatureScheme": SIGNATURE,
            "WireKEMScheme": self._shape.wire_kem,
            "IdentityKey": (folder / "identity.public.pem").read_text("ascii"),
            "LinkKey": (folder / "link.public.pem").read_text("ascii"),
            "Addresses": server["Addresses"],
        }


def _public(folder: Path) -> str:
    return str(folder / "identity.public.pem")


class Ports:
    """Ports in a row, or free ones."""

    def __init__(self, base: int, random: IRandom) -> None:
        self._next, self._random = base, random
        self._taken: set[int] = set()

    def take(self, count: int) -> int:
        """The first of *count* consecutive ports.

        :raises ConfigError: beyond the last port, or none free.
        """
        if self._next:
            first, self._next = self._next, self._next + count
            if self._next > 65536:
                raise ConfigError("--base-port is too high: the ports would go beyond 65535")
            return first
        for _ in range(100):
            first = FREE_PORTS[self._random.below(len(FREE_PORTS))]
            wanted = set(range(first, first + count))
            if not wanted & self._taken and all(map(_is_free, wanted)):
                self._taken |= wanted
                return first
        raise ConfigError("no free ports found on 127.0.0.1; choose some with --base-port")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def read(folder: Path) -> Network:
    """The network of a tree that :func:`generate` wrote.

    :raises ConfigError: there is no such tree.
    """
    folder = folder.resolve()
    nodes = []
    epochs = set()
    for config in sorted([*folder.glob(f"*/{AUTHORITY_FILE}"), *folder.glob(f"*/{NODE_FILE}")]):
        server = _server(config)
        epochs.add(str(server.get("EpochDuration", "20m")))
        nodes.append(
            Node(
                name=str(server.get("Identifier", config.parent.name)),
                role=_role(config, server),
                folder=config.parent,
                config=config,
                addresses=list(server.get("Addresses", [])),
                metrics=str(server.get("MetricsAddress", "")),
            )
        )
    if not any(n.role == "authority" for n in nodes):
        raise ConfigError(f"{folder} holds no network: {folder}/*/{AUTHORITY_FILE} is missing; make one with genconfig")
    order = ("authority", "mix", "gateway", "service node", "provider")
    nodes.sort(key=lambda n: (order.index(n.role), n.name))
    if len(epochs) > 1:
        raise ConfigError(f"the programs in {folder} have different epochs: {', '.join(sorted(epochs))}")
    return Network(folder, epochs.pop(), nodes, folder / "client")


def _server(config: Path) -> dict[str, Any]:
    try:
        tables = toml.parse(config.read_text("utf-8"))
    except (ConfigError, UnicodeDecodeError) as e:
        raise ConfigError(f"{config}: {e}") from e
    server = tables.get("Server")
    if not isinstance(server, dict):
        raise ConfigError(f"{config} has no [Server]")
    return server


def _role(config: Path, server: dict[str, Any]) -> str:
    if config.name == AUTHORITY_FILE:
        return "authority"
    for key, role in (("IsProvider", "provider"), ("IsGatewayNode", "gateway"), ("IsServiceNode", "service node")):
        if server.get(key):
            return role
    return "mix"
