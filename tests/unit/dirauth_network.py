"""A small network of made-up nodes for the tests of the authority."""

from __future__ import annotations

import attrs

from katzentwist.config.authority import Parameters
from katzentwist.config.whitelist import GATEWAY, MIX, SERVICE, Member
from katzentwist.crypto.sign import by_name
from katzentwist.dirauth._core import AuthorityCore, Post, Upload, examine
from katzentwist.dirauth.making import Network
from katzentwist.pki import Descriptor, SignedUpload
from katzentwist.randomness import SeededRandom

RANDOM = SeededRandom("dirauth")
SCHEME = by_name("Ed25519")
AUTHORITY, AUTHORITY_PUBLIC = SCHEME.generate(RANDOM)


@attrs.frozen
class Node:
    """A node with its identity."""

    name: str
    kind: str
    private: bytes
    public: bytes

    @property
    def member(self) -> Member:
        """Its entry in the white list."""
        return Member(kinds=frozenset({self.kind}), name=self.name, identity_key=self.public)

    @property
    def id(self) -> bytes:
        """Its id."""
        return self.member.id

    def descriptor(self, epoch: int, **changes: object) -> Descriptor:
        """What it uploads for *epoch*."""
        made = Descriptor(
            name=self.name,
            epoch=epoch,
            link_key=b"l" * 32,
            mix_keys={epoch + i: bytes([i]) * 32 for i in range(3)},
            addresses={"tcp4": ["tcp://127.0.0.1:1"]},
            identity_key=self.public,
            is_gateway_node=self.kind == GATEWAY,
            is_service_node=self.kind == SERVICE,
            kaetzchen={} if self.kind == SERVICE else None,
        )
        return attrs.evolve(made, **changes)

    def payload(self, epoch: int, **changes: object) -> bytes:
        """The signed upload."""
        return SignedUpload.sign(self.private, self.descriptor(epoch, **changes)).encode()


def node(name: str, kind: str) -> Node:
    """A new node."""
    return Node(name, kind, *SCHEME.generate(RANDOM))


def nodes(mixes: int = 3) -> list[Node]:
    """Some mixes, a gateway and a service node."""
    return [*(node(f"mix{i}", MIX) for i in range(mixes)), node("gateway1", GATEWAY), node("service1", SERVICE)]


def network(layers: int = 3, min_nodes: int = 1, fixed: tuple[tuple[bytes, ...], ...] | None = None) -> Network:
    """What a configuration would say."""
    return Network(
        parameters=Parameters(),
        geometry_hash=bytes(32),
        layers=layers,
        min_nodes_per_layer=min_nodes,
        fixed=fixed,
        gateways=1,
    )


def upload(core: AuthorityCore, sender: Node, epoch: int, now: float, **changes: object) -> Post:
    """The whole way of an upload through the core, with a store that works."""
    made: Upload = examine(core.members, sender.id, epoch, sender.payload(epoch, **changes), core.epochs.number(now))
    decision = core.offer(made)
    if decision.store:
        core.stored(made)
    return decision.status


def publish(core: AuthorityCore, now: float) -> list[int]:
    """Make every document that is due; the epochs made."""
    made = []
    for epoch in core.publishable(now):
        making = core.begin(epoch)
        core.published(making.sign(AUTHORITY, RANDOM.bytes(32), core.epochs.number(now)))
        made.append(epoch)
    return made
