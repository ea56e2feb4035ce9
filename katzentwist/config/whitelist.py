"""The white list of an authority: who may upload a descriptor, as what, under which name (spec: pki 10.6, 12.4)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import PurePosixPath

import attrs

from katzentwist.config.authoritytables import AuthorityFile, NodeTable
from katzentwist.config.common import parse_key
from katzentwist.config.names import normalize_identifier
from katzentwist.config.schema import Report
from katzentwist.crypto import keys
from katzentwist.errors import ConfigError, CryptoError

ReadFile = Callable[[str], str]
"""Text of a file by absolute path; raises OSError."""

MIX, GATEWAY, SERVICE = "mix", "gateway", "service"


@attrs.frozen(kw_only=True)
class Member:
    """An identity of the white list.

    :ivar kinds: what its descriptor may say that it is.
    :ivar name: the name that its descriptor must have; None takes any.
    :ivar identity_key: raw public key.
    """

    kinds: frozenset[str]
    name: str | None
    identity_key: bytes

    @property
    def id(self) -> bytes:
        """32 bytes: the hash of the identity key."""
        return keys.identity_hash(self.identity_key)


class WhiteListReader:
    """Reads the lists of nodes of one file; every mistake is noted in the report.

    :param data_dir: where relative key files are.
    :param scheme: the signature scheme of identity keys.
    """

    def __init__(self, data_dir: str, scheme: keys.KeyScheme, read_file: ReadFile, report: Report) -> None:
        self.data_dir, self.scheme, self.read_file, self.report = data_dir, scheme, read_file, report

    def members(self, file: AuthorityFile, wanted_mixes: int) -> tuple[Member, ...]:
        """Every identity that may upload; counts and uniqueness are checked.

        :param wanted_mixes: the fewest mixes that make a network.
        """
        found: list[Member | None] = []
        for tables, path, kinds in (
            (file.mixes, "Mixes", {MIX}),
            (file.gateways, "GatewayNodes", {GATEWAY}),
            (file.service_nodes, "ServiceNodes", {SERVICE}),
        ):
            for index, table in enumerate(tables):
                found.append(self.member(table, f"{path}[{index}]", kinds, named=kinds != {MIX}))
        for index, provider in enumerate(file.providers):
            path = f"Providers[{index}]"
            both = bool(provider.service_key_file)
            first = self.member(provider, path, {GATEWAY} if both else {GATEWAY, SERVICE}, named=True)
            found.append(first)
            if both:
                # Without the first name, which is a mistake of its own, nothing can be wrong with the second.
                default = f"{provider.identifier}-service" if provider.identifier else ""
                half = NodeTable(identifier=provider.service_identifier or default, key_file=provider.service_key_file)
                found.append(self.member(half, path, {SERVICE}, named=bool(provider.identifier), prefix="Service"))
            elif provider.service_identifier:
                self.report.error("stands without a ServiceIdentityKeyPem", f"{path}.ServiceIdentifier")
        members = tuple(member for member in found if member is not None)
        self.check_unique(members)
        if len(members) == len(found):
            self.check_counts(members, wanted_mixes)
        return members

    def member(self, table: NodeTable, path: str, kinds: set[str], *, named: bool, prefix: str = "") -> Member | None:
        before = len(self.report.errors)
        name: str | None = None
        if table.identifier:
            try:
                name = normalize_identifier(table.identifier)
            except ConfigError as e:
                self.report.error(str(e), f"{path}.{prefix}Identifier")
        elif named:
            self.report.error("is not set", f"{path}.{prefix}Identifier")
        key = self.identity_key(table, f"{path}.{prefix}")
        if key is None or len(self.report.errors) > before:
            return None
        return Member(kinds=frozenset(kinds), name=name, identity_key=key)

    def identity_key(self, table: NodeTable, path: str) -> bytes | None:
        scheme = self.scheme
        try:
            if table.key_text and table.key_file:
                raise ConfigError("stands beside IdentityKeyPem; keep one of them")
            if table.key_text:
                return parse_key(table.key_text, (scheme.public_key_size,), scheme)
            if not table.key_file:
                raise ConfigError("is not set; name the file of the node's identity.public.pem")
            if "-----BEGIN" in table.key_file:
                return keys.decode_public(scheme, table.key_file)
            file = str(PurePosixPath(self.data_dir) / table.key_file)
            return self.read_key(file)
        except (ConfigError, CryptoError) as e:
            where = f"{path}IdentityKey" if table.key_text else f"{path}IdentityKeyPem"
            self.report.error(str(e), where)
            return None

    def read_key(self, file: str) -> bytes:
        try:
            return keys.decode_public(self.scheme, self.read_file(file))
        except OSError as e:
            raise ConfigError(f"can not read {file}: {e.strerror}; copy the node's identity.public.pem there") from e
        except (CryptoError, UnicodeDecodeError) as e:
            raise ConfigError(f"{file}: {e}") from e

    def check_unique(self, members: tuple[Member, ...]) -> None:
        names: set[str] = set()
        identities: set[bytes] = set()
        for member in members:
            if member.name is not None and member.name in names:
                self.report.error(f"Identifier '{member.name}' is present more than once")
            if member.identity_key in identities:
                known = f" of '{member.name}'" if member.name else ""
                self.report.error(f"identity key {member.id.hex()}{known} is present more than once")
            names.add(member.name or "")
            identities.add(member.identity_key)

    def check_counts(self, members: tuple[Member, ...], wanted: int) -> None:
        mixes = sum(MIX in member.kinds for member in members)
        gateways = sum(GATEWAY in member.kinds for member in members)
        services = sum(SERVICE in member.kinds for member in members)
        if mixes < wanted:
            self.report.error(
                f"{mixes} mixes are listed; Layers * MinNodesPerLayer needs {wanted}: list more, or lower one of them",
                "Mixes",
                "Debug.Layers",
                "Debug.MinNodesPerLayer",
            )
        if not gateways or not services or len(members) - mixes < 2:
            self.report.error(
                "at least one gateway and one service node must be listed; a Provider counts as both only with "
                "ServiceIdentityKeyPem, or as two entries",
                "GatewayNodes",
            )

    def topology(
        self, file: AuthorityFile, layers: int, members: tuple[Member, ...]
    ) -> tuple[tuple[bytes, ...], ...] | None:
        """The identity keys of the fixed layers; None without a [Topology]."""
        table = file.topology
        if table is None or not table.layers:
            return None
        if len(table.layers) != layers:
            self.report.error(f"{len(table.layers)} layers are listed, Debug.Layers says otherwise", "Topology.Layers")
        mixes = {member.identity_key for member in members if MIX in member.kinds}
        used: set[bytes] = set()
        out = []
        for number, layer in enumerate(table.layers):
            path = f"Topology.Layers[{number}]"
            if not layer.nodes:
                self.report.error("has no nodes", f"{path}.Nodes")
            found = [self.identity_key(n, f"{path}.Nodes[{i}].") for i, n in enumerate(layer.nodes)]
            for index, key in enumerate(found):
                if key is not None and (key not in mixes or key in used):
                    why = "is in a layer already" if key in used else "is not in [[Mixes]]"
                    self.report.error(f"the node {why}", f"{path}.Nodes[{index}]")
                used.add(key or b"")
            out.append(tuple(key for key in found if key is not None))
        return tuple(out)
