"""What a mix decides: routes, peers, limits. All cases of the reference."""

from __future__ import annotations

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.errors import PKIError, SphinxError
from katzentwist.mix.drops import DropReason
from katzentwist.mix.peers import Direction, Neighbours, Self, View, view_of
from katzentwist.mix.route import Fate, forward_delay, route
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.provider.ratelimit import LimitSource, RateLimit, TokenBucket
from katzentwist.sphinx import Kind, NextNodeHop, NodeDelay, Recipient, Routing, SurbReply, delay_cap
from tests.vectorfiles import load

DECOY = bytes(range(32))
OTHER = bytes(32)


class RouteTests(SynchronousTestCase):
    """node 4.3 to 4.5."""

    def test_vectors(self) -> None:
        """Every packet goes where the reference sends it, with the same delay or reason."""
        for case in load("node")["route"]:
            self.assertEqual(self._route(case), (case["result"], case.get("reason"), case.get("out_delay_us")), case)

    def _route(self, case: dict) -> tuple:
        recipient = DECOY if case["decoy_recipient"] else OTHER
        made = {
            "next_hop": NextNodeHop(bytes(32), bytes(32)),
            "delay": NodeDelay(case["delay_ms"]),
            "recipient": Recipient(recipient),
            "surb_reply": SurbReply(bytes(16)),
        }
        try:
            routing = Routing.from_commands([made[c] for c in case["commands"]])
            kind, who = routing.kind, routing.recipient
        except SphinxError:
            kind, who = Kind.REDUNDANT, None
        fate = route(
            NodeKind(case["node"]),
            kind,
            has_payload=case["payload"],
            recipient=who,
            from_client=case["from_client"],
            decoy_id=DECOY,
        )
        if isinstance(fate, DropReason):
            return "drop", fate.value, None
        if fate is not Fate.SCHEDULER:
            return fate.value, None, None
        delay = forward_delay(case["delay_ms"], case["dwell_us"] / 1e6, 1200.0)
        if isinstance(delay, DropReason):
            return "drop", delay.value, None
        return "scheduler", None, round(delay * 1e6)

    def test_cap(self) -> None:
        """node 4.6: the longest delay of a document."""
        for case in load("node")["cap"]:
            self.assertEqual(delay_cap(case["rate"]), case["cap_ms"], case)


def descriptor(name: str, link_key: bytes = b"k" * 32) -> Descriptor:
    """A node; its identity key is its name."""
    return Descriptor(
        name=name, link_key=link_key, mix_keys={}, addresses={}, identity_key=name.encode().ljust(32, b".")
    )


def document(
    layers: list[list[Descriptor]], gateways: list[Descriptor], services: list[Descriptor], epoch: int = 5
) -> Document:
    """A document of these nodes."""
    return Document(
        mu=0.01,
        epoch=epoch,
        lambda_g=0,
        lambda_l=0,
        lambda_m=0,
        lambda_p=0,
        lambda_r=0,
        topology=layers,
        gateway_nodes=gateways,
        genesis_epoch=1,
        service_nodes=services,
        prior_shared_random=(),
        shared_random_value=b"",
        sphinx_geometry_hash=b"",
    )


def me(node: Descriptor, kind: NodeKind) -> Self:
    """What this node expects to find of itself."""
    return Self(kind=kind, name=node.name, id=node.id, identity_key=node.identity_key, link_key=node.link_key)


KINDS = {"m": NodeKind.MIX, "g": NodeKind.GATEWAY, "s": NodeKind.SERVICE}


class TopologyTests(SynchronousTestCase):
    """node 4.8."""

    def test_vectors(self) -> None:
        """Who accepts whom and who dials whom, for 1 to 4 layers."""
        for case in load("node")["topology"]:
            nodes = {n["name"]: descriptor(n["name"]) for n in case["nodes"]}
            layers: list[list[Descriptor]] = [[] for _ in range(case["layers"])]
            for n in case["nodes"]:
                if n["kind"] == "m":
                    layers[int(n["name"][3:].split("_")[0])].append(nodes[n["name"]])
            gateways = [nodes[n["name"]] for n in case["nodes"] if n["kind"] == "g"]
            services = [nodes[n["name"]] for n in case["nodes"] if n["kind"] == "s"]
            doc = document(layers, gateways, services)
            for n in case["nodes"]:
                view = view_of(doc, me(nodes[n["name"]], KINDS[n["kind"]]))
                self.assertEqual(sorted(d.name for d in view.incoming.values()), sorted(n["incoming"]), n)
                self.assertEqual(sorted(d.name for d in view.outgoing.values()), sorted(n["outgoing"]), n)
                for kind in n["refused_as_kinds"]:
                    self.assertRaises(PKIError, view_of, doc, me(nodes[n["name"]], KINDS[kind]))


class SelfTests(SynchronousTestCase):
    """node 4.8: a half uses a document only if it is in it as it is."""

    def test_as_we_are(self) -> None:
        """Another name, link key or identity key under our id, or none of us: of no use."""
        own = descriptor("own")
        mine = me(own, NodeKind.MIX)
        self.assertEqual(view_of(document([[own]], [], []), mine).epoch, 5)
        self.assertRaises(PKIError, view_of, document([[descriptor("other")]], [], []), mine)
        for change in ({"name": "another"}, {"link_key": b"x" * 32}):
            self.assertRaises(PKIError, view_of, document([[attrs.evolve(own, **change)]], [], []), mine)
        self.assertRaises(PKIError, view_of, document([[own]], [], []), attrs.evolve(mine, identity_key=b"x" * 32))


class AuthenticateTests(SynchronousTestCase):
    """node 5.2."""

    def test_vectors(self) -> None:
        """All states of the four documents, both directions."""
        peer, own = descriptor("peer"), descriptor("own")
        wrong = attrs.evolve(peer, link_key=b"x" * 32)
        for case in load("node")["authenticate"]:
            neighbours = Neighbours(me(own, NodeKind.MIX))
            for offset, key in ((1, "next"), (0, "now"), (-1, "prev"), (-2, "prev2")):
                state = case[key]
                if state != "none":
                    neighbours.views[10 + offset] = self._view(state, own, peer, wrong, 10 + offset)
            direction = Direction(case["direction"])
            got = neighbours.authenticate(peer.id, peer.link_key, direction, 10, case["near_end"])
            self.assertEqual((got.can_send, got.valid), (case["can_send"], case["valid"]), case)
            self.assertEqual(got.descriptor is not None, case["desc"], case)
            self.assertEqual(neighbours.ready(10, case["near_end"]), case["usable"], case)

    def _view(self, state: str, own: Descriptor, peer: Descriptor, wrong: Descriptor, epoch: int) -> View:
        there = {"listed": peer, "otherkey": wrong}.get(state)
        beside = [there] if there is not None else []
        # Elsewhere: in our own layer, to which nobody connects.
        own_layer = [own, peer] if state == "elsewhere" else [own]
        near = {d.id: d for d in beside}
        return View(document([own_layer, beside], [], [], epoch), near, near)


class RateLimitTests(SynchronousTestCase):
    """node 5.5, provider 8."""

    def test_vectors(self) -> None:
        """The limit that the document's rates give."""
        for case in load("node")["rate_limit"]:
            limit = RateLimit.from_rates(case["lambda_p"], case["lambda_l"])
            self.assertEqual((limit.interval_ns, limit.capacity), (case["interval_ns"], case["capacity"]), case)

    def test_quiet_client(self) -> None:
        """Rate 30 and burst 4: of 20 packets 4 pass at once, then one every 2 s."""
        source = LimitSource()
        source.send_rate(30)
        source.send_burst(4)
        bucket = TokenBucket()
        bucket.set_limit(source.current(), 0.0)
        passed = [t / 10 for t in range(600, 1000) for _ in range(20 if t == 600 else 1) if bucket.allow(t / 10)]
        self.assertEqual(passed[:4], [60.0] * 4)
        self.assertEqual(
            [round(b - a, 1) for a, b in zip(passed[4:], passed[5:], strict=False)], [2.0] * (len(passed) - 5)
        )

    def test_new_connection(self) -> None:
        """A new connection has one token."""
        bucket = TokenBucket()
        bucket.set_limit(RateLimit.from_rates(0.001, 0.0005), 7.0)
        self.assertEqual([bucket.allow(7.0) for _ in range(3)], [True, False, False])

    def test_commands(self) -> None:
        """SEND_RATE and SEND_BURST: 0 switches off, documents do not override, DisableRateLimit wins."""
        source = LimitSource()
        source.use_document(0.001, 0.0)
        by_document = source.current()
        source.send_burst(3)
        self.assertEqual(source.current(), RateLimit(by_document.interval_ns, 3))
        source.send_rate(60)
        self.assertEqual(source.current(), RateLimit(1_000_000_000, 3))
        source.use_document(0.5, 0.5)
        self.assertEqual(source.current(), RateLimit(1_000_000_000, 3))
        source.send_burst(0)
        self.assertEqual(source.current().interval_ns, 0)
        source.send_burst(3)
        source.send_rate(60_001)
        self.assertEqual(source.current().interval_ns, 0)
        source.disabled = True
        source.send_rate(1)
        self.assertEqual(source.current().interval_ns, 0)
