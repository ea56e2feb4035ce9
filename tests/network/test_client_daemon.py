"""The daemon on a fake clock, by the points of spec client 20; real packets through a network in memory."""

from __future__ import annotations

import math
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.client import apps, listener
from katzentwist.client.sender import Sender
from katzentwist.randomness import SeededRandom
from katzentwist.sphinx import Geometry
from katzentwist.thin.requests import SendMessage
from tests.network.appside import Side
from tests.network.clientnet import EPOCHS, GEOMETRY, FakeClock, FakeNetwork
from tests.unit.test_client_tickers import kolmogorov_smirnov


class DaemonTestCase(SynchronousTestCase):
    """A network and a daemon."""

    rates: dict[str, float] = {}
    changes: dict[str, object] = {}
    settle = 2.0

    def setUp(self) -> None:
        self.reactor = Clock()
        self.network = FakeNetwork(self.reactor, self.id(), **self.rates)  # type: ignore[arg-type]
        self.side = Side(self.network, self.id(), **self.changes)
        self.network.run(self.settle)


class DialogueTests(DaemonTestCase):
    """Order of frames, sessions (spec: client 9)."""

    def test_first_three_frames(self) -> None:
        """Status, document, token reply: exactly these, with both geometries whole."""
        app = self.side.app()
        self.assertEqual(app.names(), ["connection_status_event", "new_pki_document_event", "session_token_reply"])
        status = app.got[0][1]
        self.assertTrue(status["is_connected"])
        self.assertEqual(list(status["sphinx_geometry"]), list(GEOMETRY.to_toml()))
        self.assertEqual(status["pigeonhole_geometry"]["MaxPlaintextPayloadLength"], 149)
        self.assertEqual(status["features"], ["arq"])
        self.assertFalse(app.got[2][1]["resumed"])

    def test_nothing_before_the_token_reply(self) -> None:
        """A broadcast waits for the token, for the first other request, or for two seconds."""
        app = self.side.app(None, settle=0.1)
        self.network.die()
        self.network.run(0.5)
        self.assertEqual(app.names(), ["connection_status_event", "new_pki_document_event"])
        app.request("session_token", client_instance_token=b"x" * 16)
        self.network.run(0.1)
        self.assertEqual(app.names()[2:], ["session_token_reply", "connection_status_event"])
        silent = self.side.app(None, settle=0.1)
        self.network.listen()
        self.network.run(40)
        self.assertEqual(silent.names()[:3].count("connection_status_event"), 2)

    def test_no_document_yet(self) -> None:
        """Point 6: null after 30 s; others are not kept waiting; the document comes as an event."""
        reactor = Clock()
        network = FakeNetwork(reactor, 6)
        network.hold_documents = True
        side = Side(network)
        early = side.app(settle=29.0)
        self.assertEqual(early.got, [])
        late = side.app(b"late" * 4, settle=2.0)
        self.assertEqual(early.names(), ["connection_status_event", "new_pki_document_event", "session_token_reply"])
        self.assertIsNone(early.got[1][1]["payload"])
        self.assertEqual(late.got, [])
        network.hold_documents = False
        network.run(12)
        self.assertIsNotNone(early.all("new_pki_document_event")[1]["payload"])
        self.assertIsNotNone(late.got[1][1]["payload"])

    def test_resume(self) -> None:
        """Point 4: dropped after sent, back within the grace: same id, the reply after the token reply."""
        app = self.side.app()
        app.send(1)
        while not app.all("message_sent_event"):
            self.network.run(0.05)
        app.transport.loseConnection()
        self.network.run(20)
        self.assertEqual(app.replies(), [])
        again = self.side.app()
        self.assertEqual(again.names()[2:4], ["session_token_reply", "message_reply_event"])
        self.assertEqual(again.replies(), [b"payload 1"])
        self.assertTrue(again.got[2][1]["resumed"])
        self.assertEqual(again.got[2][1]["app_id"], app.got[2][1]["app_id"])

    def test_accepted_requests_survive_a_drop(self) -> None:
        """What was read is sent though the socket dropped; its events wait."""
        app = self.side.app()
        for i in range(5):
            app.send(i)
        self.network.run(0.1)
        app.transport.loseConnection()
        self.network.run(30)
        again = self.side.app()
        self.assertEqual(sorted(again.replies()), [b"payload %d" % i for i in range(5)])
        self.assertEqual(len(app.all("message_sent_event") + again.all("message_sent_event")), 5)

    def test_newer_connection_wins(self) -> None:
        """Two connections on one token: the older is closed, and its end touches nothing."""
        old = self.side.app()
        new = self.side.app()
        self.network.run(0.5)
        self.assertTrue(old.lost)
        self.assertTrue(new.got[2][1]["resumed"])
        new.send(1)
        self.network.run(10)
        self.assertEqual(new.replies(), [b"payload 1"])
        self.assertEqual(len(self.side.daemon.apps), 1)

    def test_grace_ends_with_the_return(self) -> None:
        """Who came back within it is not forgotten when it would have been over, and has a whole one the next time."""
        app = self.side.app()
        app.transport.loseConnection()
        self.network.run(500)
        again = self.side.app()
        self.network.run(500)
        again.send(1)
        self.network.run(20)
        self.assertEqual(again.replies(), [b"payload 1"])
        again.transport.loseConnection()
        self.network.run(500)
        self.assertTrue(self.side.app().got[2][1]["resumed"])

    def test_grace_is_over(self) -> None:
        """After the grace period, and after thin_close, nothing is known any more."""
        app = self.side.app()
        app.transport.loseConnection()
        self.network.run(599)
        self.assertEqual(len(self.side.daemon.apps), 1)
        self.network.run(2)
        self.assertEqual(len(self.side.daemon.apps), 0)
        app = self.side.app()
        self.assertFalse(app.got[2][1]["resumed"])
        app.request("thin_close")
        self.network.run(0.2)
        self.assertTrue(app.lost)
        self.assertEqual(len(self.side.daemon.apps), 0)
        self.assertFalse(self.side.app().got[2][1]["resumed"])

    def test_without_token(self) -> None:
        """An application without a token works, and is forgotten with its connection."""
        app = self.side.app(None)
        app.send(1)
        self.network.run(10)
        self.assertEqual(app.replies(), [b"payload 1"])
        app.transport.loseConnection()
        self.network.run(0.2)
        self.assertEqual(len(self.side.daemon.apps), 0)

    def test_second_token(self) -> None:
        """One more name for the same application."""
        app = self.side.app(b"a" * 16)
        app.request("session_token", client_instance_token=b"b" * 16)
        self.network.run(0.1)
        replies = app.all("session_token_reply")
        self.assertEqual(replies[0]["app_id"], replies[1]["app_id"])
        self.assertTrue(self.side.app(b"b" * 16).got[2][1]["resumed"])

    def test_requests_before_a_known_token(self) -> None:
        """A request may come before the token: what waits, what left and what is being made goes on, in the session."""
        old = self.side.app()
        old.send(9, reliable=True)
        self.network.run(0.1)
        old.transport.loseConnection()
        self.network.run(0.1)
        self.side.delay(1.0)  # so that one packet is being made when the token comes
        app = self.side.app(None, settle=0.1)
        for number in (1, 3, 5):
            app.send(number)
            app.send(number + 1, reliable=True)
        app.send(9, reliable=True)
        self.network.run(3.0)
        self.assertIn(len(app.all("message_sent_event")), range(1, 6))
        app.request("session_token", client_instance_token=old.token)
        self.network.run(0.1)
        [told] = app.all("session_token_reply")
        self.assertEqual((told["resumed"], told["app_id"]), (True, old.got[2][1]["app_id"]))
        self.network.run(30)
        self.assertEqual(sorted(app.replies()), [b"payload %d" % i for i in (1, 2, 3, 4, 5, 6, 9)])
        errors = {e["message_id"][-1]: e["err"] for e in app.all("message_sent_event") if e.get("err")}
        self.assertEqual(errors, {9: "message id already in use"})
        [known] = self.side.daemon.apps._apps
        app.request("thin_close")
        self.network.run(0.1)
        self.assertEqual((len(self.side.daemon.apps), len(self.side.daemon.reliable.table), known.alive), (0, 0, False))

    def test_kept_events_are_bounded(self) -> None:
        """1000 events wait for an application that is away; the others are counted."""
        app = self.side.app()
        app.transport.loseConnection()
        self.network.run(0.2)
        [known] = self.side.daemon.apps._apps
        for _ in range(apps.KEPT + 7):
            known.tell(b"")
        self.assertEqual((len(known.kept), known.lost), (apps.KEPT, 7))


class MessageTests(DaemonTestCase):
    """send_message (spec: client 13)."""

    def test_echo(self) -> None:
        """Sent with an estimate, then the reply: payload, zeros, the whole block."""
        app = self.side.app()
        id_ = app.send(5)
        self.network.run(10)
        [sent], [reply] = app.all("message_sent_event"), app.all("message_reply_event")
        self.assertEqual((sent["message_id"], sent["surbid"]), (id_, id_))
        self.assertGreater(sent["reply_eta"], 0)
        self.assertNotIn("err", sent)
        self.assertEqual((reply["message_id"], reply["surbid"], reply["error_code"]), (id_, id_, 0))
        self.assertEqual(len(reply["payload"]), GEOMETRY.forward_payload_length)
        self.assertEqual(reply["payload"].rstrip(b"\0"), b"payload 5")

    def test_refusals(self) -> None:
        """The texts of client 7.1, each for its own message."""
        app = self.side.app()
        largest = GEOMETRY.user_forward_payload_length
        cases = [
            ({"destination_id_hash": None}, "request.DestinationIdHash is nil"),
            ({"recipient_queue_id": b""}, "client: recipient is nil"),
            ({"recipient_queue_id": bytes(33)}, "client: invalid recipient: '[0 0"),
            ({"payload": bytes(largest + 1)}, f"message too large: {largest + 1} > {largest}"),
            (
                {"destination_id_hash": b"?" * 32},
                "client/conn: PKI error: client: failed to find destination service node: pki: service not found",
            ),
            ({"destination_id_hash": b"?" * 31}, "client/conn: PKI error: client: failed to find destination"),
            ({"surbid": None}, "surbid is missing"),
            ({"surbid": b"short"}, "surbid is missing"),
        ]
        for number, (fields, _) in enumerate(cases):
            app.send(number, **fields)  # type: ignore[arg-type]
        app.send(100, payload=bytes(largest))
        self.network.run(20)
        events = {e["message_id"]: e for e in app.all("message_sent_event")}
        for number, (_, text) in enumerate(cases):
            event = events[number.to_bytes(16, "big")]
            self.assertTrue(event["err"].startswith(text), event["err"])
            self.assertEqual(event["reply_eta"], 0)
        self.assertNotIn("err", events[(100).to_bytes(16, "big")])

    def test_surb_id_in_use(self) -> None:
        """An id that waits for its reply already is refused, also to another application."""
        first, second = self.side.app(b"1" * 16), self.side.app(b"2" * 16)
        first.send(1)
        second.send(1)
        self.network.run(10)
        errors = [e.get("err") for a in (first, second) for e in a.all("message_sent_event")]
        self.assertEqual(sorted(map(str, errors)), ["None", "SURB ID already in use"])
        self.assertEqual(len(first.replies()) + len(second.replies()), 1)

    def test_without_reply(self) -> None:
        """The service gets exactly the payload, zero-padded; nothing comes back, not even an error."""
        app = self.side.app()
        app.send(1, surb=False, service="record")
        app.send(2, surb=False, payload=bytes(9999))
        self.network.run(10)
        self.assertEqual([p.rstrip(b"\0") for p in self.network.recorded], [b"payload 1"])
        self.assertEqual(len(self.network.recorded[0]), GEOMETRY.user_forward_payload_length)
        self.assertEqual(len(app.got), 3)

    def test_held_while_offline(self) -> None:
        """Point 7: a silent gateway: status after 15 s, sends are held, go out later; old replies are lost."""
        app = self.side.app()
        self.network.travels = False
        app.send(1)
        self.network.silent = True
        while app.got[-1][0] != "connection_status_event":
            self.network.run(0.5)
        self.assertLess(self.reactor.seconds(), 30)
        self.assertEqual([s["is_connected"] for s in app.all("connection_status_event")], [True, False])
        self.network.silent, self.network.travels = False, True
        app.send(2)
        self.network.run(15)
        self.assertEqual([s["is_connected"] for s in app.all("connection_status_event")], [True, False, True])
        self.assertEqual(app.replies(), [b"payload 2"])

    def test_link_lost_while_a_packet_is_made(self) -> None:
        """It is refused, with the sum of the path that was chosen for it already (spec: client 7.1)."""
        app = self.side.app()
        self.side.delay(3.0)
        app.send(1)
        self.network.run(2.0)
        self.network.die()
        self.network.run(5.0)
        [event] = app.all("message_sent_event")
        self.assertEqual(event["err"], "client/conn: not connected to the Gateway")
        self.assertGreater(event["reply_eta"], 0)

    def test_documents_and_authorities(self) -> None:
        """get_pki_document and get_directory_authorities, with error 10 for what is not there."""
        app = self.side.app()
        now = EPOCHS.number(self.network.clock.wallclock())
        for epoch in (0, now, 1):
            app.request("get_pki_document", query_id=bytes([epoch % 256]) * 16, epoch=epoch)
        app.request("get_directory_authorities", query_id=b"q" * 16)
        self.network.run(0.1)
        current, same, missing = app.all("get_pki_document_reply")
        self.assertEqual((current["payload"], current["epoch"]), (self.network.document(now), now))
        self.assertEqual(same["payload"], current["payload"])
        self.assertEqual((missing["payload"], missing["epoch"], missing["error_code"]), (None, 1, 10))
        [authorities] = app.all("get_directory_authorities_reply")
        [entry] = authorities["authorities"]
        self.assertEqual((entry["identifier"], entry["addresses"]), ("auth1", ["tcp://127.0.0.1:99"]))
        self.assertEqual(len(entry["identity_key_hash"]), 32)

    def test_document_events(self) -> None:
        """One per epoch, when it begins."""
        app = self.side.app()
        self.network.run(3 * 120)
        self.assertEqual(len(app.all("new_pki_document_event")), 4)

    def test_other_geometry(self) -> None:
        """A network of another Sphinx geometry: its documents are refused, and applications read "not connected"."""
        network = FakeNetwork(Clock(), 12)
        side = Side(network, geometry=Geometry.from_user_payload(700, 5, nike="x25519"))
        app = side.app(settle=31)
        self.assertFalse(app.all("connection_status_event")[-1]["is_connected"])
        self.assertIsNone(app.got[1][1]["payload"])

    def test_pigeonhole(self) -> None:
        """Point 9: answered at once, without a tick."""
        app = self.side.app()
        app.raw({"new_keypair": {"query_id": b"1" * 16, "seed": bytes(32)}})
        app.raw({"start_resending_copy_command": {"query_id": b"2" * 16}})
        self.network.run(0.05)
        codes = [(n, f["error_code"]) for n, f in app.got[3:]]
        self.assertEqual(codes, [("new_keypair_reply", 10), ("start_resending_copy_command_reply", 13)])


class HostileTests(DaemonTestCase):
    """Point 5: only the connection that misbehaves is affected."""

    def test_garbage(self) -> None:
        """Garbage, too long, null, wrong types."""
        good = self.side.app(b"g" * 16)
        for data in (
            b"\0\0\0\5hello",
            b"\xff\xff\xff\xff",
            b"\0\0\0\0",
            b"\0\0\0\1\xf6",
            b"\0\0\0\3\x82\1\2",
            bytes.fromhex("0000000f") + b"\xa1\x6cthin_close\xa0\0\0",
        ):
            bad = self.side.app(b"b" * 16)
            bad.transport.write(data)
            self.network.run(0.2)
            self.assertTrue(bad.lost, data)
        odd = self.side.app(b"o" * 16)
        odd.raw({"unknown": {"a": 1}})
        odd.raw({})
        odd.raw({"thin_close": None})
        self.network.run(0.2)
        self.assertFalse(odd.lost)
        good.send(1)
        self.network.run(10)
        self.assertEqual(good.replies(), [b"payload 1"])

    def test_never_reads(self) -> None:
        """An application that does not read is cut off after 60 s; the others do not notice."""
        good, bad = self.side.app(b"g" * 16), self.side.app(b"b" * 16)
        bad.transport.pauseProducing()
        for _ in range(40):
            bad.request("get_pki_document", query_id=bytes(16), epoch=0)
        self.network.run(5)
        [app] = [a for a in self.side.daemon.apps.connected() if a.tokens == {b"b" * 16}]
        good.send(1)
        self.network.run(10)
        self.assertEqual(good.replies(), [b"payload 1"])
        self.network.run(60)
        self.assertIsNone(app.connection)

    def test_too_much_unread(self) -> None:
        """More than 64 MiB for one application ends its connection."""
        bad = self.side.app()
        bad.transport.pauseProducing()
        [app] = self.side.daemon.apps.connected()
        connection = app.connection
        assert isinstance(connection, listener.AppConnection)
        for _ in range(70):
            app.tell(bytes(1 << 20))
        self.assertIsNone(app.connection)
        self.assertLess(connection._unsent_size, listener.MAX_UNSENT + (2 << 20))


class FairnessTests(DaemonTestCase):
    """Point 3."""

    rates = {"lambda_p": 0.01, "mu": 0.2}

    def test_flooding(self) -> None:
        """Turns alternate; the one who floods is not read any more; replies never cross."""
        flood, calm = self.side.app(b"f" * 16), self.side.app(b"c" * 16)
        for i in range(1000, 1400):
            flood.send(i)
        self.network.run(1)
        for i in range(20):
            calm.send(i)
        self.network.run(1)
        queued = {len(a.fifo) for a in self.side.daemon.apps.connected()}
        self.assertLessEqual(max(queued), apps.FIFO)
        self.network.run(6)
        self.assertGreater(len(calm.replies()), 12)
        self.assertGreater(len(flood.replies()), 12)
        self.network.run(60)
        self.assertEqual(sorted(calm.replies()), sorted(b"payload %d" % i for i in range(20)))
        self.assertEqual(sorted(flood.replies()), sorted(b"payload %d" % i for i in range(1000, 1400)))

    def test_queries_wait_their_turn(self) -> None:
        """Requests are read in order: a full queue delays a query behind it."""
        app = self.side.app()
        for i in range(17):
            app.send(i)
        app.request("get_directory_authorities", query_id=bytes(16))
        self.network.run(0.01)
        self.assertEqual(app.all("get_directory_authorities_reply"), [])
        self.network.run(5)
        self.assertEqual(len(app.all("get_directory_authorities_reply")), 1)


class DecoyTests(DaemonTestCase):
    """Point 8."""

    rates = {"lambda_p": 0.005, "lambda_l": 0.002}

    def test_decoys(self) -> None:
        """They flow at the rates of both tickers, are answered, and no application hears of them."""
        app = self.side.app()
        self.network.run(100)
        self.assertApproximates(len(self.network.arrivals), 700, 100)
        self.assertEqual(self.side.daemon.sender.decoys, len(self.network.arrivals))
        self.assertLess(self.side.daemon.lost_decoys, 5)
        self.assertEqual(set(app.names()[3:]), set())

    def test_off(self) -> None:
        """DisableDecoyTraffic: nothing of its own, real messages still paced; a NoOp keeps the session."""
        side = Side(FakeNetwork(Clock(), 8, lambda_p=0.005, lambda_l=0.002), disable_decoys=True)
        side.network.run(200)
        self.assertEqual(side.network.arrivals, [])
        [peer] = side.network._peers.values()
        self.assertGreaterEqual(peer.noops, 3)
        app = side.app()
        for i in range(5):
            app.send(i)
        side.network.run(20)
        self.assertEqual(len(side.network.arrivals), 5)
        self.assertGreater(side.network.arrivals[-1] - side.network.arrivals[0], 0.2)


class _Timed:
    """A client whose packets are only timed: the statistics need a hundred thousand of them."""

    def __init__(self, reactor: Clock, core: Any) -> None:
        self.core, self.times, self._reactor = core, [], reactor

    async def send(self, message: Any, **options: Any) -> Any:
        self.times.append(self._reactor.seconds())
        return type("Sent", (), {"reply_eta": 1.0})


class _Heap:
    """Just enough of a clock for two tickers; Clock sorts all calls at each one."""

    def __init__(self) -> None:
        self.now = 0.0
        self.calls: list[Any] = []

    def seconds(self) -> float:
        return self.now

    def callLater(self, delay: float, function: Any, *args: Any) -> Any:
        call = (self.now + delay, function, args)
        self.calls.append(call)
        return type("Call", (), {"cancel": lambda _: self.calls.remove(call)})()

    def step(self) -> None:
        due = min(self.calls, key=lambda call: call[0])
        self.calls.remove(due)
        self.now = due[0]
        due[1](*due[2])


class StatisticsTests(SynchronousTestCase):
    """What the daemon sends is a Poisson stream, idle and flooded alike."""

    def intervals(self, flooded: bool, count: int = 100_000) -> list[float]:
        """The pauses between all packets, real and decoy together."""
        network = FakeNetwork(Clock(), 9, lambda_p=0.001, lambda_l=0.0005)
        daemon = network.daemon("statistics")
        daemon.start()
        network.run(2)
        document = daemon.core.document()
        assert document is not None and daemon.core.connected
        clock = _Heap()
        timed: Any = _Timed(clock, daemon.core)  # type: ignore[arg-type]
        daemon.client = timed
        app = daemon.apps.new(None)  # type: ignore[arg-type]
        node = network.services[0].descriptor(1, "service").id
        message = SendMessage(id=None, with_surb=False, surb_id=None, destination=node, recipient=b"+echo", payload=b"")
        if flooded:
            app.fifo.extend([message] * count)
        random = SeededRandom(f"statistics {flooded}")
        sender = Sender(clock, random, FakeClock(clock), timed, daemon._serve, decoys_off=False)
        sender.use_rates(document)
        sender.link_up()
        while len(timed.times) <= count:
            clock.step()
        if flooded:
            self.assertLess(len(app.fifo), count * 0.4)
        return [b - a for a, b in zip(timed.times, timed.times[1:], strict=False)]

    def check(self, flooded: bool) -> None:
        """Kolmogorov-Smirnov against the exponential of both rates together."""
        intervals = sorted(self.intervals(flooded))
        count, rate = len(intervals), 1.5
        distance = 0.0
        for i, value in enumerate(intervals):
            expected = 1 - math.exp(-rate * value)
            distance = max(distance, expected - i / count, (i + 1) / count - expected)
        p = kolmogorov_smirnov(distance, count)
        mean = sum(intervals) / count
        state = "flooded" if flooded else "idle"
        print(f"{state}: n={count} mean={mean * 1000:.2f} ms (666.67) D={distance:.5f} p={p:.3f}")
        self.assertGreater(p, 0.01)

    def test_idle(self) -> None:
        """Decoys alone."""
        self.check(False)

    def test_flooded(self) -> None:
        """An application that always has something to send."""
        self.check(True)
