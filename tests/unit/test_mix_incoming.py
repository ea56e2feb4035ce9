"""Links that others dial: who is let in, what they may send (spec: node 5, link 8, 9.4 to 9.6)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import ConfigError
from katzentwist.mix import pipeline
from katzentwist.mix.incoming import Listeners
from katzentwist.mix.peers import Verdict
from katzentwist.net import LinkOwner, dial
from katzentwist.net.owner import ILink
from katzentwist.node.keyfiles import KeyPair
from katzentwist.wire import SessionConfig, SessionKind
from katzentwist.wire.commands import Disconnect, GetConsensus, NoOp, SendPacket
from katzentwist.wire.legal import CLIENT

from ..network.clientnet import SIZES, WIRE
from ..network.nodenet import FakeNode, NodeNet

PACKET = bytes(SIZES.packet_length)


class Caller(LinkOwner):
    """A peer of the test's own making."""

    def __init__(self) -> None:
        self.link: ILink | None = None
        self.heard: list[Any] = []
        self.ended = False

    def established(self, link: ILink) -> None:
        """See ILinkOwner."""
        self.link = link

    def commandReceived(self, link: ILink, command: Any) -> None:
        """See ILinkOwner."""
        self.heard.append(command)

    def closed(self, link: ILink, reason: Exception) -> None:
        """See ILinkOwner."""
        self.ended = True


class IncomingCase(SynchronousTestCase):
    """A network that is up."""

    def setUp(self) -> None:
        self.net = NodeNet(Path(self.mktemp()), self.id())
        self.net.start()
        self.net.run(20)
        self.addCleanup(self.net.stop)
        self.first = next(n for n in self.net.mixes if self.place(n) == 0)
        self.last = next(n for n in self.net.mixes if self.place(n) == 2)

    def place(self, node: FakeNode) -> int:
        return self.net.document().find(node.identity.id).layer

    def call(self, node: FakeNode, identity: bytes, link: KeyPair | None = None) -> Caller:
        """Connect under this name, with these keys or new ones."""
        link = link or KeyPair(*WIRE.generate(self.net.random))
        config = SessionConfig(
            kem=WIRE,
            private=link.private,
            public=link.public,
            additional_data=identity,
            kind=SessionKind.MIXNET,
            sizes=SIZES,
            accepts=CLIENT,
        )
        caller = Caller()
        made = dial(self.net.context(), self.net.wire, node.config.addresses[0], config, caller)
        made.addErrback(lambda failure: None)
        self.net.run(0)
        return caller

    def as_gateway(self, node: FakeNode) -> Caller:
        """Connect as the gateway, which layer 0 knows; the real one is gone, or it would come back and win."""
        if self.net.gateway.running:
            self.net.gateway.stop()
            self.net.run(0)
        return self.call(node, self.net.gateway.identity.id, self.net.gateway.identity.link)

    def refused(self, node: FakeNode, reason: str = "unknown_mix") -> int:
        return node.metrics.value("incoming_peer_validation_failures_total", reason=reason)


class AdmissionTests(IncomingCase):
    """Who is let in."""

    def test_strangers(self) -> None:
        """A mix and a service node take nodes of the layer before theirs and nobody else."""
        for node in (self.first, self.net.service):
            before = self.refused(node)
            for identity in (b"", b"x", bytes(32), bytes(33), bytes(255), self.net.mixes[0].identity.id):
                caller = self.call(node, identity)
                self.assertIsNone(caller.link)
                self.assertTrue(caller.ended)
            self.assertEqual(self.refused(node) - before, 6)

    def test_handshakes_are_counted(self) -> None:
        """How long they took and how they ended, on both sides (node 10)."""
        metrics = self.first.metrics
        before = metrics.value("handshake_failures_total", direction="incoming", state="other")
        self.call(self.first, b"stranger")
        self.assertEqual(metrics.value("handshake_failures_total", direction="incoming", state="other") - before, 1)
        text = metrics.render()
        for direction, result in (("incoming", "success"), ("incoming", "failure"), ("outgoing", "success")):
            name = f'katzenpost_handshake_duration_seconds_count{{direction="{direction}",result="{result}"}} '
            self.assertRegex(text, f"(?m)^{re.escape(name)}[1-9]")

    def test_wrong_layer(self) -> None:
        """A real node with its real keys, at the wrong place."""
        self.assertIsNone(self.call(self.last, self.net.gateway.identity.id, self.net.gateway.identity.link).link)
        self.assertIsNotNone(self.as_gateway(self.first).link)

    def test_clients(self) -> None:
        """A gateway takes whoever is no node; a node id with another key is refused, never a client."""
        self.assertIsNotNone(self.call(self.net.gateway, b"q" * 32).link)
        for node in self.net.nodes:
            self.assertIsNone(self.call(self.net.gateway, node.identity.id).link)
        self.assertEqual(len(self.net.gateway.clients), 1)

    def test_duplicates(self) -> None:
        """Of the same name and key the newest stays; the same name with another key coexists."""
        key = KeyPair(*WIRE.generate(self.net.random))
        first = self.call(self.net.gateway, b"q" * 32, key)
        other = self.call(self.net.gateway, b"q" * 32)
        second = self.call(self.net.gateway, b"q" * 32, key)
        self.assertEqual((first.ended, other.ended, second.ended), (True, False, False))
        again = self.as_gateway(self.first)
        self.net.run(0)
        self.assertIsNotNone(again.link)

    def test_readiness(self) -> None:
        """Without a document connections are closed before the handshake, and counted."""
        self.net.gateway.half.neighbours.views.clear()
        metrics = self.net.gateway.metrics
        before = metrics.value("incoming_refused_no_pki_doc_total")
        caller = self.call(self.net.gateway, b"q" * 32)
        self.assertEqual((caller.link, caller.ended), (None, True))
        self.assertEqual(metrics.value("incoming_refused_no_pki_doc_total"), before + 1)

    def test_too_many(self) -> None:
        """As many links as there may be: the next one is refused, and counted; one that goes makes room."""
        incoming = self.net.gateway.half.incoming
        first = self.call(self.net.gateway, b"q" * 32)
        self.patch(incoming, "_most", len(incoming.links))
        metrics = self.net.gateway.metrics
        second = self.call(self.net.gateway, b"r" * 32)
        self.assertEqual((second.link, second.ended, first.ended), (None, True, False))
        self.assertEqual(metrics.value("incoming_refused_too_many_total"), 1)
        first.link.close()
        self.net.run(0)
        self.assertIsNotNone(self.call(self.net.gateway, b"s" * 32).link)

    def test_reauthentication(self) -> None:
        """A node that is in no document any more is cut off within ReauthInterval; clients stay."""
        client = self.call(self.net.gateway, b"q" * 32)
        mixes = len(self.net.gateway.half.incoming.links) - 1
        self.assertEqual(mixes, 1)
        self.net.gateway.half.neighbours.views.clear()
        self.net.run(31)
        self.assertEqual(len(self.net.gateway.half.incoming.links), 1)
        self.assertFalse(client.ended)


class BackPressureTests(IncomingCase):
    """A node that can not keep up (spec: node 4)."""

    def test_waits(self) -> None:
        """Its links are not read while its queue is full; nothing is dropped, all is unwrapped in the end."""
        self.patch(pipeline, "INBOUND_LIMIT", 10)
        caller = self.as_gateway(self.first)
        half, metrics = self.first.half, self.first.metrics
        [link] = [link for link in half.incoming.links if link.peer.additional_data == self.net.gateway.identity.id]
        pauses: list[str] = []
        self.patch(link, "pause", lambda: pauses.append("pause"))
        self.patch(link, "resume", lambda: pauses.append("resume"))
        before = metrics.value("dropped_reason_total", reason="unwrap_failed")
        for count in (9, 1, 30):
            caller.link.sendPackets([PACKET] * count)
        self.net.run(0)
        self.assertEqual(pauses[0], "pause")
        self.assertEqual(pauses[-1], "resume")
        self.assertEqual(metrics.value("dropped_reason_total", reason="unwrap_failed") - before, 40)
        self.assertEqual(self.first.drops().keys() - {"unwrap_failed"}, set())


class CommandTests(IncomingCase):
    """What they may send."""

    def test_silence(self) -> None:
        """A node hears nothing after the NoOp that ends the handshake, whatever it sends and however long it waits."""
        caller = self.as_gateway(self.first)
        for _ in range(5):
            caller.link.send(NoOp())
            caller.link.sendPackets([PACKET])
            self.net.run(15)
        self.assertEqual((caller.heard, caller.ended), ([], False))

    def test_illegal(self) -> None:
        """Nodes ask for no documents."""
        caller = self.as_gateway(self.first)
        caller.link.send(GetConsensus(epoch=1))
        self.net.run(0)
        self.assertTrue(caller.ended)

    def test_disconnect(self) -> None:
        """Is understood."""
        client = self.call(self.net.gateway, b"q" * 32)
        client.link.send(Disconnect())
        self.net.run(0)
        self.assertTrue(client.ended)
        node = self.as_gateway(self.first)
        node.link.send(Disconnect())
        self.net.run(0)
        self.assertTrue(node.ended)

    def test_not_yet(self) -> None:
        """While a peer may not send, everything from it is dropped, counted, and not counted as received."""
        caller = self.as_gateway(self.first)
        incoming = self.first.half.incoming
        self.patch(incoming, "_judge", lambda _: Verdict(None, can_send=False, valid=True))
        incoming.recheck()
        self.net.run(0)
        received = dict(self.first.metrics.counters)
        caller.link.sendPackets([PACKET, PACKET])
        caller.link.send(NoOp())
        caller.link.send(Disconnect())
        self.net.run(0)
        self.assertEqual(self.first.drops(), {"incoming_out_of_epoch": 4})
        self.assertFalse(caller.ended)
        for key, value in self.first.metrics.counters.items():
            if key[0] == "incoming_requests_total":
                self.assertEqual(value, received.get(key))

    def test_rate(self) -> None:
        """The first packet of a new client passes, a burst behind it does not (5.5)."""
        caller = self.call(self.net.gateway, b"q" * 32)
        caller.link.sendPackets([PACKET] * 8)
        self.net.run(0)
        self.assertEqual(self.net.gateway.drops(), {"gateway_rate_limited": 7, "unwrap_failed": 1})
        self.assertFalse(caller.ended)

    def test_wrong_length(self) -> None:
        """A packet of another network ends the session."""
        caller = self.call(self.net.gateway, b"q" * 32)
        caller.link.send(SendPacket(packet=PACKET[:-1]))
        self.net.run(0)
        self.assertTrue(caller.ended)

    def test_idle(self) -> None:
        """Two minutes without a command, whatever it is sent meanwhile."""
        caller = self.call(self.net.gateway, b"q" * 32)
        self.net.run(119)
        self.assertFalse(caller.ended)
        self.net.run(2)
        self.assertTrue(caller.ended)


class ListenerTests(IncomingCase):
    """The sockets."""

    def test_in_use(self) -> None:
        """Names the address and what to do; it is one of ours."""
        node = self.first
        again = Listeners(node.runtime, node.config.listen, node.half.incoming)
        coroutine = again.start()
        with self.assertRaises(ConfigError) as caught:
            coroutine.send(None)
        self.assertIn(node.config.listen[0].url, str(caught.exception))
        self.assertIsInstance(caught.exception.__cause__, CannotListenError)

    def test_stop(self) -> None:
        """All links are closed, delayed packets counted, no timer is left."""
        node = self.first
        caller = self.as_gateway(node)
        node.half.scheduler.queue.push(1e9, b"n" * 32, PACKET)
        node.stop()
        self.net.run(6)
        self.assertTrue(caller.ended)
        self.assertEqual(node.drops(), {"shutdown": 1})
        self.assertEqual(len(node.half.incoming._peers), 0)
        for other in self.net.nodes:
            if other.running:
                other.stop()
        self.net.run(6)
        mine = [c for c in self.net.reactor.getDelayedCalls() if "_tick" not in str(c)]
        self.assertEqual(mine, [])
