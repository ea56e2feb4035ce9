"""Choosing paths (spec: sphinx 14.1 to 14.3).

Pure functions over anything that looks like a PKI document. Hops are drawn uniformly and independently, one per layer;
times are integers in Unix milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import attrs

from katzentwist.clock import Epochs
from katzentwist.errors import SphinxError
from katzentwist.randomness import IRandom
from katzentwist.sphinx.commands import Command, NodeDelay, Recipient, SurbReply
from katzentwist.sphinx.delay import sample_delay
from katzentwist.sphinx.geometry import RECIPIENT_ID_LENGTH
from katzentwist.sphinx.types import PathHop

GATEWAY_LAYER = 255
SERVICE_LAYER = 254
ATTEMPTS = 3


class PathDescriptor(Protocol):
    """What paths need of a node's descriptor."""

    @property
    def id(self) -> bytes:
        """BLAKE2b-256 of the identity key."""

    @property
    def mix_keys(self) -> Mapping[int, bytes]:
        """Epoch -> public mix key."""


class PathPlace(Protocol):
    """Where a node stands."""

    @property
    def layer(self) -> int:
        """0 and up for mixes, 255 gateway, 254 service node."""

    @property
    def descriptor(self) -> PathDescriptor:
        """The node."""


class PathDocument(Protocol):
    """What paths need of a PKI document."""

    @property
    def mu(self) -> float:
        """Rate of the delays, per millisecond."""

    @property
    def topology(self) -> Sequence[Sequence[PathDescriptor]]:
        """The mixes, by layer."""

    @property
    def gateways(self) -> Sequence[PathDescriptor]:
        """The gateways."""

    @property
    def service_nodes(self) -> Sequence[PathDescriptor]:
        """The service nodes."""

    def find(self, node: bytes) -> PathPlace | None:
        """The node with this id; asked several times for each packet, so it must not look through all of them."""


@attrs.frozen
class Path:
    """A path with keys and commands, ready for building.

    :ivar hops: in the order in which the packet meets them.
    :ivar end_time: Unix ms at which the packet ends, transit not counted: the base time of the reply path.
    """

    hops: tuple[PathHop, ...]
    end_time: int


def find_node(document: PathDocument, node_id: bytes) -> tuple[PathDescriptor, int]:
    """The descriptor of a node and its layer: 0 and up for mixes, 255 gateway, 254 service node.

    :raises SphinxError: the node is not in the document.
    """
    place = document.find(node_id)
    if place is not None:
        return place.descriptor, place.layer
    raise SphinxError(f"path: node {node_id.hex()} is not in the document")


def choose_path(
    document: PathDocument,
    source: bytes,
    destination: bytes,
    recipient: bytes,
    *,
    base_time: int,
    epochs: Epochs,
    random: IRandom,
    surb_id: bytes | None = None,
    from_client: bool = False,
    forward: bool = True,
    to_user: bool = False,
) -> Path:
    """Draw a path with its delays.

    :param source: id of the node where the packet starts. A client's gateway is the first hop; any other source is no
        hop itself.
    :param recipient: 1 to 32 bytes, for the last hop.
    :param base_time: Unix ms: now for a forward path, the forward path's end for a reply path.
    :param surb_id: of the SURB that goes with a forward packet, or that this reply path is for.
    :param to_user: a message to a user: the destination may be a gateway then.
    :raises SphinxError: with the texts of section 14.1; ``max path selection attempts exceeded`` when a hop has no mix
        key for the time at which the packet would reach it.
    """
    if not 1 <= len(recipient) <= RECIPIENT_ID_LENGTH:
        raise SphinxError(f"path: invalid recipient of {len(recipient)} bytes")
    if not forward and surb_id is None:
        raise SphinxError("path: a reply path needs a SURB id")
    if forward:
        plan = _forward_plan(document, source, destination, from_client=from_client, to_user=to_user)
    else:
        plan = _reply_plan(document, source, destination)
    delay_at_end = forward and surb_id is not None
    for _ in range(ATTEMPTS):
        nodes = [layer[random.below(len(layer))] for layer in plan]
        delays = [sample_delay(document.mu, random) for _ in nodes[: None if delay_at_end else -1]]
        path = _walk(nodes, delays, base_time, epochs, _last_commands(recipient, None if forward else surb_id))
        if path is not None:
            return path
    raise SphinxError("path: max path selection attempts exceeded")


def _forward_plan(
    document: PathDocument, source: bytes, destination: bytes, *, from_client: bool, to_user: bool
) -> list[Sequence[PathDescriptor]]:
    """For each hop the nodes to choose from."""
    end, end_layer = find_node(document, destination)
    if end_layer != SERVICE_LAYER and not (to_user and end_layer == GATEWAY_LAYER):
        raise SphinxError(f"path: invalid destination (non service node): {destination.hex()}")
    start, start_layer = find_node(document, source)
    if from_client and start_layer != GATEWAY_LAYER:
        raise SphinxError(f"path: invalid source from client (non gateway node): {source.hex()}")
    first = start_layer + 1 if start_layer < len(document.topology) else 0
    return [*([[start]] if from_client else []), *_layers(document, first, len(document.topology)), [end]]


def _reply_plan(document: PathDocument, source: bytes, destination: bytes) -> list[Sequence[PathDescriptor]]:
    _, start_layer = find_node(document, source)
    if start_layer != SERVICE_LAYER:
        raise SphinxError(f"path: invalid source layer: {start_layer}")
    end, end_layer = find_node(document, destination)
    return [*_layers(document, 0, min(end_layer, len(document.topology))), [end]]


def _layers(document: PathDocument, first: int, stop: int) -> list[Sequence[PathDescriptor]]:
    layers = []
    for number in range(first, stop):
        if not document.topology[number]:
            raise SphinxError(f"path: layer {number} has no nodes")
        layers.append(document.topology[number])
    return layers


def _last_commands(recipient: bytes, surb_id: bytes | None) -> list[Command]:
    commands: list[Command] = [Recipient(recipient.ljust(RECIPIENT_ID_LENGTH, b"\0"))]
    return commands if surb_id is None else [*commands, SurbReply(surb_id)]


def _walk(
    nodes: list[PathDescriptor], delays: list[int], base_time: int, epochs: Epochs, last: list[Command]
) -> Path | None:
    """Give each node its key and commands; None when one has no key for its epoch (spec: 14.3)."""
    hops = []
    time = base_time
    for i, node in enumerate(nodes):
        key = node.mix_keys.get(epochs.number(time // 1000))
        if not key:  # a null in the descriptor is read as an empty key
            return None
        commands: list[Command] = []
        if i < len(delays):
            commands.append(NodeDelay(delays[i]))
            time += delays[i]
        if i == len(nodes) - 1:
            commands += last
        hops.append(PathHop(node.id, key, tuple(commands)))
    return Path(tuple(hops), time)
