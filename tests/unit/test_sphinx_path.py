"""Paths and delays."""

from __future__ import annotations

from typing import Any, NamedTuple

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.clock import Epochs
from katzentwist.crypto.hash import blake2b_256
from katzentwist.errors import SphinxError
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import NodeDelay, Recipient, SurbReply, choose_path, delay_cap, find_node, sample_delay
from katzentwist.sphinx.commands import encode, parse
from katzentwist.sphinx.delay import LONGEST
from tests.vectorfiles import load, unhex


@attrs.frozen
class Node:
    """A descriptor as far as paths need it."""

    id: bytes
    mix_keys: dict[int, bytes]


class Place(NamedTuple):
    """A layer and one of its nodes."""

    layer: int
    descriptor: Node


@attrs.frozen
class Document:
    """A document as far as paths need it."""

    mu: float
    topology: list[list[Node]]
    gateways: list[Node]
    service_nodes: list[Node]

    def find(self, node: bytes) -> Place | None:
        """The first place of this node."""
        layers = [*enumerate(self.topology), (255, self.gateways), (254, self.service_nodes)]
        places = (Place(layer, each) for layer, nodes in layers for each in nodes)
        return next((place for place in places if place.descriptor.id == node), None)


class Choices(SeededRandom):
    """Draws the nodes and delays that the reference drew."""

    def __init__(self, indices: list[int], delays: list[int]) -> None:
        super().__init__("choices")
        self.indices, self.delays = indices, delays

    def below(self, n: int) -> int:
        return self.indices.pop(0)

    def exponential(self, rate: float) -> float:
        return self.delays.pop(0) - 0.5


def document(vector: dict[str, Any]) -> Document:
    """A document of the vectors."""
    nodes = {
        unhex(node["id"]): Node(unhex(node["id"]), {int(e): unhex(key) for e, key in node["mix_keys"].items()})
        for node in vector["nodes"]
    }
    kinds = {
        kind: [nodes[unhex(n["id"])] for n in vector["nodes"] if n["kind"] == kind] for kind in ("gateway", "service")
    }
    topology = [[nodes[unhex(node_id)] for node_id in layer] for layer in vector["topology"]]
    return Document(vector["mu"], topology, kinds["gateway"], kinds["service"])


class VectorTests(SynchronousTestCase):
    """Paths of the reference implementation, its random choices taken from the vectors."""

    def test_ids(self) -> None:
        """A node's id is the hash of its identity key."""
        for vector in load("sphinx_path")["documents"]:
            for node in vector["nodes"]:
                self.assertEqual(blake2b_256(unhex(node["identity_key"])), unhex(node["id"]))

    def test_paths(self) -> None:
        """Hops, keys, commands, end times and errors."""
        for vector in load("sphinx_path")["documents"]:
            epochs = Epochs(vector["period_s"] * 10**9)
            for case in vector["paths"]:
                self.check(case, document(vector), epochs)

    def check(self, case: dict[str, Any], doc: Document, epochs: Epochs) -> None:
        """One path."""
        if "first layer empty" in case["label"]:
            doc.topology[0].clear()
        options: dict[str, Any] = {
            "base_time": case["base_time_ms"],
            "epochs": epochs,
            "surb_id": unhex(case["surb_id"]) or None,
            "from_client": case["from_client"],
            "forward": case["forward"],
        }
        nodes = unhex(case["source"]), unhex(case["destination"]), unhex(case["recipient"])
        if case["error"]:
            error = self.assertRaises(SphinxError, choose_path, doc, *nodes, random=SeededRandom("error"), **options)
            self.assertEqual(str(error), case["error"], case["label"])
            return
        indices, delays = [], []
        cap = delay_cap(doc.mu)
        for hop in case["hops"]:
            indices.append(self.index(doc, unhex(hop["id"]), nodes))
            for command in parse(unhex(hop["commands"])):
                if isinstance(command, NodeDelay):
                    delays.append(command.delay)
                    self.assertTrue(1 <= command.delay <= cap)
        choices = Choices(indices, delays)
        path = choose_path(doc, *nodes, random=choices, **options)
        self.assertEqual((choices.indices, choices.delays), ([], []))
        self.assertEqual(path.end_time, case["end_time_ms"], case["label"])
        found = [(hop.id, hop.public_key, encode(hop.commands)) for hop in path.hops]
        expected = [(unhex(h["id"]), unhex(h["public_key"]), unhex(h["commands"])) for h in case["hops"]]
        self.assertEqual(found, expected, case["label"])

    @staticmethod
    def index(doc: Document, node_id: bytes, ends: tuple[bytes, ...]) -> int:
        """Where a hop stands in its layer; 0 for the two ends, which are not drawn from several."""
        node, layer = find_node(doc, node_id)
        if node_id in ends or layer >= len(doc.topology):
            return 0
        return doc.topology[layer].index(node)  # type: ignore[arg-type]


def network(layers: int = 3, width: int = 3, mu: float = 0.001) -> Document:
    """A network whose nodes have keys for epochs 0 to 2."""
    random = SeededRandom("network")

    def node() -> Node:
        return Node(random.bytes(32), {epoch: random.bytes(32) for epoch in range(3)})

    return Document(mu, [[node() for _ in range(width)] for _ in range(layers)], [node()], [node(), node()])


EPOCHS = Epochs()
START = 1496275200_000


class ChoosePathTests(SynchronousTestCase):
    """What the vectors do not hold."""

    def test_to_user(self) -> None:
        """A message to a user ends at a gateway, and only when that is asked for."""
        doc = network()
        gateway = doc.gateways[0].id
        arguments: dict[str, Any] = {
            "base_time": START,
            "epochs": EPOCHS,
            "random": SeededRandom("user"),
            "from_client": True,
        }
        path = choose_path(doc, gateway, gateway, b"alice", to_user=True, surb_id=bytes(16), **arguments)
        self.assertEqual([path.hops[0].id, path.hops[-1].id], [gateway, gateway])
        self.assertEqual(path.hops[-1].commands[1:], (Recipient(b"alice" + bytes(27)),))
        self.assertRaises(SphinxError, choose_path, doc, gateway, gateway, b"alice", **arguments)

    def test_reply_commands(self) -> None:
        """The last hop of a reply has recipient and SURB reply, and no delay."""
        doc = network()
        path = choose_path(
            doc,
            doc.service_nodes[0].id,
            doc.gateways[0].id,
            b"queue",
            base_time=START,
            epochs=EPOCHS,
            random=SeededRandom("reply"),
            surb_id=bytes(16),
            forward=False,
        )
        self.assertEqual(len(path.hops), 4)
        self.assertEqual(path.hops[-1].commands, (Recipient(b"queue" + bytes(27)), SurbReply(bytes(16))))
        self.assertTrue(all(isinstance(hop.commands[0], NodeDelay) for hop in path.hops[:-1]))

    def test_bad_arguments(self) -> None:
        """Unknown nodes, missing SURB ids, recipients of the wrong length."""
        doc = network()
        service, gateway = doc.service_nodes[0].id, doc.gateways[0].id
        good: dict[str, Any] = {"base_time": START, "epochs": EPOCHS, "random": SeededRandom("bad")}
        unknown = self.assertRaises(SphinxError, choose_path, doc, bytes(32), service, b"x", **good)
        self.assertEqual(str(unknown), f"path: node {bytes(32).hex()} is not in the document")
        self.assertRaises(SphinxError, choose_path, doc, gateway, bytes(32), b"x", **good)
        self.assertRaises(SphinxError, choose_path, doc, gateway, service, b"", **good)
        self.assertRaises(SphinxError, choose_path, doc, gateway, service, bytes(33), **good)
        self.assertRaises(SphinxError, choose_path, doc, service, gateway, b"x", forward=False, **good)

    def test_empty_key(self) -> None:
        """A descriptor may carry an empty key: it counts as none."""
        doc = network(layers=1, width=1)
        doc.topology[0][0].mix_keys[0] = b""
        ends = doc.gateways[0].id, doc.service_nodes[0].id
        good: dict[str, Any] = {"base_time": START, "epochs": EPOCHS, "random": SeededRandom("empty")}
        error = self.assertRaises(SphinxError, choose_path, doc, *ends, b"x", **good)
        self.assertEqual(str(error), "path: max path selection attempts exceeded")

    def test_uniform(self) -> None:
        """Every mix of a layer is drawn about equally often, in each layer independently."""
        doc, random = network(layers=2, width=4), SeededRandom("uniform")
        counts: dict[tuple[bytes, bytes], int] = {}
        rounds = 4000
        for _ in range(rounds):
            path = choose_path(
                doc,
                doc.gateways[0].id,
                doc.service_nodes[0].id,
                b"x",
                base_time=START,
                epochs=EPOCHS,
                random=random,
                from_client=True,
            )
            pair = path.hops[1].id, path.hops[2].id
            counts[pair] = counts.get(pair, 0) + 1
        self.assertEqual(len(counts), 16)
        expected = rounds / 16
        chi_squared = sum((count - expected) ** 2 / expected for count in counts.values())
        # 15 degrees of freedom: 44.3 is exceeded once in 10^4.
        self.assertTrue(chi_squared < 44.3, chi_squared)


class DelayTests(SynchronousTestCase):
    """Delays."""

    def test_cap_vectors(self) -> None:
        """The caps of the reference."""
        for vector in load("sphinx")["safety_cap"]:
            self.assertEqual(delay_cap(vector["lambda"]), vector["cap_ms"])
        for mu in (float("nan"), float("inf"), -1.0):
            self.assertEqual(delay_cap(mu), 0)

    def test_distribution(self) -> None:
        """Mean and tail of floor(Exp(mu)) + 1."""
        random, mu, n = SeededRandom("delays"), 0.01, 20000
        draws = [sample_delay(mu, random) for _ in range(n)]
        # The mean of the ceiling of an exponential draw is 1 / (1 - exp(-mu)) = 100.5; the standard error is 0.71.
        self.assertTrue(abs(sum(draws) / n - 100.5) < 3)
        self.assertTrue(abs(sum(draw > 230 for draw in draws) / n - 0.1003) < 0.01)
        self.assertTrue(min(draws) >= 1)
        self.assertTrue(max(draws) <= delay_cap(mu))

    def test_cap_is_reached(self) -> None:
        """A draw beyond the cap becomes the cap; one below it never exceeds it."""
        for draw, expected in ((1e9, 2764), (2763.5, 2764), (2764.0, 2764), (0.2, 1), (0.0, 1)):
            random = SeededRandom("cap")
            random.exponential = lambda rate, draw=draw: draw  # type: ignore[method-assign,misc]
            self.assertEqual(sample_delay(0.01, random), expected)

    def test_strange_mu(self) -> None:
        """Mu that is no rate is an error; a tiny one still gives a delay that a command can carry."""
        for mu in (0.0, -1.0, float("nan"), float("inf")):
            self.assertRaises(SphinxError, sample_delay, mu, SeededRandom("mu"))
        for mu in (1e-12, 5e-324):
            self.assertTrue(1 <= sample_delay(mu, SeededRandom("mu")) <= LONGEST)
