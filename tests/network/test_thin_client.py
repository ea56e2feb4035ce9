"""Our thin client against our daemon, in memory and on a fake clock (spec: client 16.3, 20.1)."""

from __future__ import annotations

import inspect
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.client import Socket
from katzentwist.thin import (
    Config,
    ConnectionStatusEvent,
    DaemonDisconnected,
    LostError,
    MessageIDGarbageCollected,
    MessageReplyEvent,
    MessageSentEvent,
    NewPKIDocumentEvent,
    NotSentError,
    OverdueError,
    RefusedError,
    ServiceNotFoundError,
    ShutdownEvent,
    ThinClient,
    ThinClientOfflineError,
    _calls,
    aio,
    blake2_256_sum,
    blocking,
    client,
)
from tests.network.appside import DAEMON, Side
from tests.network.clientnet import GEOMETRY, FakeNetwork

DIAL = Socket(network="tcp", address="127.0.0.1:64331")


class ThinTestCase(SynchronousTestCase):
    """A network, a daemon, a thin client."""

    def setUp(self) -> None:
        self.reactor = Clock()
        self.network = FakeNetwork(self.reactor, self.id())
        self.side = Side(self.network, self.id())
        self.network.run(2)
        self.patch(client, "endpoint_for", lambda reactor, dial: self.network.wire.dial(DAEMON))
        self.heard: list[tuple[str, Any]] = []

    def thin(self, **callbacks: Any) -> ThinClient:
        """Connected."""
        thin = ThinClient(DIAL, self.reactor, **callbacks)
        started = thin.start()
        self.network.run(0.5)
        self.successResultOf(started)
        return thin

    def hear(self, name: str) -> Any:
        """A callback."""
        return lambda argument: self.heard.append((name, argument))

    def destination(self, thin: ThinClient, service: str = "echo") -> tuple[bytes, bytes]:
        """Of a service."""
        return thin.get_service(service).to_destination()


class FaceTests(SynchronousTestCase):
    """The three kinds of thin client."""

    def test_same_methods(self) -> None:
        """Each method has the same parameters and says the same of itself in all three."""
        twisted, loop, plain = ThinClient, aio.ThinClient, blocking.ThinClient
        names = {name for name in vars(_calls) if inspect.iscoroutinefunction(getattr(_calls, name))}
        self.assertGreater(len(names), 7)
        for name in names | {"event_sink", "stop_event_sink", "get_service", "stop", "disconnect"}:
            methods = [getattr(face, name) for face in (twisted, loop, plain)]
            kinds = {
                tuple((p.name, p.kind, p.default) for p in inspect.signature(method).parameters.values())
                for method in methods
            }
            self.assertEqual(len(kinds), 1, name)
            self.assertTrue(all(inspect.getdoc(method) for method in methods), name)


class LibraryTests(ThinTestCase):
    """Documents, services, sends, events."""

    def test_documents_and_services(self) -> None:
        """The mapping of client 11.2; random choice; descriptors; what is not there."""
        new = ThinClient(DIAL, self.reactor)
        self.assertIsNone(new.pki_document())
        thin = self.thin()
        doc = thin.pki_document()
        assert doc is not None
        for key in ("Epoch", "Mu", "LambdaP", "LambdaL", "Topology", "GatewayNodes", "ServiceNodes"):
            self.assertIn(key, doc)
        self.assertIs(thin.pki_document_for_epoch(doc["Epoch"]), doc)
        self.assertIs(thin.pki_document_for_epoch(1), doc)
        names = Counter(thin.get_service(doc, "echo").mix_descriptor["Name"] for _ in range(200))
        self.assertEqual(set(names), {"service0", "service1"})
        self.assertEqual(len(thin.get_services("echo")), 2)
        self.assertEqual(len(thin.get_services(None, "echo")), 2)
        service = thin.get_service("echo")
        self.assertEqual(service.recipient_queue_id, b"+echo")
        self.assertEqual(service.to_destination()[0], blake2_256_sum(service.mix_descriptor["IdentityKey"]))
        error = self.assertRaises(ServiceNotFoundError, thin.get_service, "nothing")
        self.assertIn("service not found in pki doc", str(error))
        self.assertRaises(TypeError, thin.get_service)
        geometry = thin.geometry
        assert geometry is not None
        self.assertEqual(geometry.UserForwardPayloadLength, GEOMETRY.user_forward_payload_length)
        self.assertRaises(AttributeError, lambda: geometry.Nothing)

    def test_blocking(self) -> None:
        """The reply, zero-padded; two at once are not mixed up."""
        thin = self.thin()
        first = thin.blocking_send_message("first", *self.destination(thin))
        second = thin.blocking_send_message(b"second", *self.destination(thin))
        self.network.run(20)
        one, two = self.successResultOf(first), self.successResultOf(second)
        self.assertEqual((one.rstrip(b"\0"), two.rstrip(b"\0")), (b"first", b"second"))
        self.assertEqual(len(one), GEOMETRY.forward_payload_length)

    def test_events_in_order(self) -> None:
        """A sent event and then a reply, with the caller's id, to callbacks and to a stream of its own."""
        names = (
            "on_message_sent",
            "on_message_reply",
            "on_new_document",
            "on_new_pki_document",
            "on_connection_status",
        )
        thin = self.thin(**{name: self.hear(name) for name in names})
        self.assertEqual([n for n, _ in self.heard], ["on_connection_status", "on_new_document", "on_new_pki_document"])
        self.assertEqual(self.heard[1][1], thin.pki_document())
        self.heard.clear()
        sink = thin.event_sink()
        surb_id = thin.new_surb_id()
        self.successResultOf(thin.send_message(surb_id, b"x", *self.destination(thin)))
        self.network.run(10)
        [(_, sent), (_, reply)] = self.heard
        self.assertEqual([n for n, _ in self.heard], ["on_message_sent", "on_message_reply"])
        self.assertEqual((sent.surbid, reply["surbid"]), (surb_id, surb_id))
        self.assertGreater(sent.reply_eta, 0)
        self.assertIsInstance(self.successResultOf(sink.get()), MessageSentEvent)
        self.assertIsInstance(self.successResultOf(sink.get()), MessageReplyEvent)
        waiting = sink.get()
        self.assertNoResult(waiting)
        thin.stop_event_sink(sink)
        self.failureResultOf(waiting, StopAsyncIteration)

    def test_callbacks(self) -> None:
        """Coroutines and Deferreds are welcome; one that fails is logged and stops nothing; wrong names are refused."""

        async def on_message_sent(event: Any) -> None:
            self.heard.append(("coroutine", event))

        def on_message_reply(event: Any) -> Deferred[None]:
            raise RuntimeError("the application's own")

        thin = self.thin(on_message_sent=on_message_sent, on_message_reply=on_message_reply)
        reply = thin.blocking_send_message(b"x", *self.destination(thin))
        self.network.run(10)
        self.successResultOf(reply)
        self.assertEqual([n for n, _ in self.heard], ["coroutine"])
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
        self.assertRaises(TypeError, ThinClient, DIAL, self.reactor, on_nothing=print)

    def test_without_reply(self) -> None:
        """It arrives; one that is too large is refused here, since the daemon would say nothing."""
        thin = self.thin()
        self.successResultOf(thin.send_message_without_reply(b"one way", *self.destination(thin, "record")))
        self.network.run(10)
        self.assertEqual([p.rstrip(b"\0") for p in self.network.recorded], [b"one way"])
        refused = thin.send_message_without_reply(bytes(601), *self.destination(thin))
        self.assertIn("too large: 601 > 600", str(self.failureResultOf(refused, RefusedError).value))

    def test_reliable(self) -> None:
        """With a message id: reply, then the garbage event; after a cancel at once."""
        thin = self.thin(on_message_id_garbage_collected=self.hear("gc"))
        self.assertIn("arq", thin.features)
        id_ = thin.new_message_id()
        reply = thin.blocking_send_reliable_message(id_, b"again", *self.destination(thin))
        self.network.run(20)
        self.assertEqual(self.successResultOf(reply).rstrip(b"\0"), b"again")
        self.network.run(320)
        self.network.travels = False
        other = thin.new_message_id()
        thin.send_reliable_message(other, b"x", *self.destination(thin))
        self.network.run(3)
        thin.cancel_reliable_message(other)
        self.network.run(0.1)
        self.assertEqual([e.message_id for _, e in self.heard], [id_, other])
        self.assertIsInstance(self.heard[0][1], MessageIDGarbageCollected)

    def test_raw_document_and_authorities(self) -> None:
        """What the daemon holds; RefusedError with its code for what it does not."""
        thin = self.thin()
        raw, asked = thin.get_pki_document_raw(), thin.get_directory_authorities()
        missing = thin.get_pki_document_raw(1)
        self.network.run(0.1)
        self.assertEqual(self.successResultOf(raw), (self.network.document(4_000_000), 4_000_000))
        self.assertEqual([a["identifier"] for a in self.successResultOf(asked)], ["auth1"])
        error = self.failureResultOf(missing, RefusedError).value
        self.assertEqual((error.code, str(error)), (10, "Service unavailable"))

    def test_status_events(self) -> None:
        """False when the gateway goes, true when it is back; each once."""
        thin = self.thin(on_connection_status=self.hear("status"))
        self.network.die()
        self.network.run(40)
        self.network.listen()
        self.network.run(120)
        self.assertEqual([e.is_connected for _, e in self.heard], [True, False, True])
        self.assertIsInstance(self.heard[0][1], ConnectionStatusEvent)
        self.assertTrue(thin.is_connected())

    def test_document_every_epoch(self) -> None:
        """Three epochs, three documents, and a ping across each boundary comes back."""
        thin = self.thin(on_new_pki_document=self.hear("document"))
        for _ in range(3):
            self.network.run(119 - (self.reactor.seconds() + 10) % 120)
            ping = thin.blocking_send_message(b"across", *self.destination(thin))
            self.network.run(10)
            self.assertEqual(self.successResultOf(ping).rstrip(b"\0"), b"across")
        epochs = [e.document["Epoch"] for _, e in self.heard if isinstance(e, NewPKIDocumentEvent)]
        self.assertEqual(epochs, [4_000_000, 4_000_001, 4_000_002, 4_000_003])


class OutcomeTests(ThinTestCase):
    """The four exceptions of client 16.3."""

    def test_text_for_bytes(self) -> None:
        """A queue or a node as text is refused here; the daemon would hang up, and the send just be overdue."""
        thin = self.thin()
        node, queue = self.destination(thin)
        for wrong in ((node, queue.decode()), (node.hex()[:32], queue)):
            sends = (
                thin.blocking_send_message(b"x", *wrong),  # type: ignore[arg-type]
                thin.send_message_without_reply(b"x", *wrong),  # type: ignore[arg-type]
                thin.blocking_send_reliable_message(None, b"x", *wrong),  # type: ignore[arg-type]
            )
            for send in sends:
                self.failureResultOf(send, NotSentError)

    def test_not_sent(self) -> None:
        """No daemon; no gateway."""
        absent = ThinClient(DIAL, self.reactor)
        self.failureResultOf(absent.blocking_send_message(b"x", bytes(32), b"+echo"), NotSentError)
        thin = self.thin()
        self.network.die()
        self.network.run(1)
        self.failureResultOf(thin.blocking_send_message(b"x", *self.destination(thin)), ThinClientOfflineError)

    def test_not_started(self) -> None:
        """The face for scripts before its start: nothing can be sent, and nothing needs to end."""
        script = blocking.ThinClient(DIAL)
        self.assertRaises(ThinClientOfflineError, script.send_message, bytes(16), b"x", bytes(32), b"+echo")
        self.assertRaises(ThinClientOfflineError, script.get_pki_document_raw)
        script.disconnect()
        script.stop()
        self.assertIsNone(script.pki_document())

    def test_no_daemon(self) -> None:
        """start() says where it looked."""
        self.side._port[0].stopListening()
        started = ThinClient(DIAL, self.reactor).start()
        error = self.failureResultOf(started, NotSentError).value
        self.assertIn("127.0.0.1:64331", str(error))

    def test_refused(self) -> None:
        """The daemon's text, at once and not after the time-out."""
        thin = self.thin()
        refused = thin.blocking_send_message(bytes(601), *self.destination(thin))
        unknown = thin.blocking_send_message(b"x", bytes(32), b"+echo")
        self.network.run(5)
        self.assertIn("too large", str(self.failureResultOf(refused, RefusedError).value))
        self.assertIn("service not found", str(self.failureResultOf(unknown, RefusedError).value))

    def test_overdue(self) -> None:
        """No reply in the caller's time; the late one is counted and dropped."""
        thin = self.thin(on_message_reply=self.hear("reply"))
        overdue = thin.blocking_send_message(b"x", *self.destination(thin), 0.01)
        self.network.run(0.02)
        self.failureResultOf(overdue, OverdueError)
        self.network.run(10)
        self.assertEqual((thin.late_replies, self.heard), (1, []))

    def test_id_again(self) -> None:
        """An id that is waited for is refused; one that was given up can be used again, and its reply is not late."""
        thin = self.thin()
        id_, where = bytes(range(16)), self.destination(thin)
        first = thin.blocking_send_reliable_message(id_, b"one", *where, 0.01)
        self.failureResultOf(thin.blocking_send_reliable_message(id_, b"two", *where), RefusedError)
        self.network.run(0.02)
        self.failureResultOf(first, OverdueError)
        thin.cancel_reliable_message(id_)
        self.network.run(1)
        again = thin.blocking_send_reliable_message(id_, b"three", *where)
        self.network.run(10)
        self.assertEqual(self.successResultOf(again).rstrip(b"\0"), b"three")
        self.assertEqual(thin.late_replies, 0)

    def test_lost(self) -> None:
        """The daemon is restarted; it is stopped; or all tries are used up."""
        thin = self.thin()
        self.network.travels = False
        waiting = thin.blocking_send_message(b"x", *self.destination(thin), 1000)
        reliable = thin.blocking_send_reliable_message(None, b"x", *self.destination(thin))
        self.network.run(200)
        self.assertIn("Maximum retries exceeded", str(self.failureResultOf(reliable, LostError).value))
        self.side.factory.close_all()
        self.side.daemon.apps._by_token.clear()  # as after a restart
        self.network.run(5)
        self.failureResultOf(waiting, LostError)
        again = thin.blocking_send_message(b"x", *self.destination(thin), 1000)
        stopped = thin.stop()
        self.network.run(1)
        self.successResultOf(stopped)
        self.failureResultOf(again, LostError)


class ConnectionTests(ThinTestCase):
    """Reconnects and the end."""

    def test_resumed(self) -> None:
        """The connection drops; the library comes back with its token, and the reply arrives."""
        thin = self.thin(on_daemon_disconnected=self.hear("disconnected"))
        waiting = thin.blocking_send_message(b"meanwhile", *self.destination(thin), 60)
        self.network.run(0.05)
        for connection in list(self.side.factory.connections):
            connection.transport.abortConnection()
        self.network.run(15)
        self.assertEqual(self.successResultOf(waiting).rstrip(b"\0"), b"meanwhile")
        [(_, event)] = self.heard
        assert isinstance(event, DaemonDisconnected)
        self.assertFalse(event.is_graceful)

    def test_started_again(self) -> None:
        """A second start, also while the connection is being made again, makes no second connection."""
        thin = self.thin()
        self.successResultOf(thin.start())
        for connection in list(self.side.factory.connections):
            connection.transport.abortConnection()
        self.network.run(0.5)
        self.successResultOf(thin.start())
        self.network.run(15)
        self.assertEqual(len(self.side.factory.connections), 1)

    def test_pauses(self) -> None:
        """1, 2, 4, ... at most 60 s between attempts, for ever."""
        thin = self.thin()
        pauses = [thin._core.next_pause() for _ in range(9)]
        self.assertEqual(pauses, [1, 2, 4, 8, 16, 32, 60, 60, 60])

    def test_shutdown(self) -> None:
        """The daemon says goodbye: ShutdownEvent, and a graceful disconnection."""
        self.thin(on_shutdown=self.hear("shutdown"), on_daemon_disconnected=self.hear("disconnected"))
        self.side.daemon.shut_down()
        self.side.factory.close_all()
        self.network.run(0.1)
        [(_, shutdown), (_, disconnected)] = self.heard
        self.assertIsInstance(shutdown, ShutdownEvent)
        self.assertTrue(disconnected.is_graceful)

    def test_stop_and_disconnect(self) -> None:
        """stop forgets the session, disconnect keeps it: its streams get the replies that came meanwhile."""
        thin = self.thin()
        app_id = thin.app_id
        sink = thin.event_sink()
        thin.send_message(thin.new_surb_id(), b"meanwhile", *self.destination(thin))
        sent = sink.get()
        self.network.run(0.1)
        while not sent.called:
            self.network.run(0.05)
        thin.disconnect()
        self.network.run(20)
        started = thin.start()
        self.network.run(1)
        self.successResultOf(started)
        self.assertEqual(thin.app_id, app_id)
        event: Any = None
        while not isinstance(event, MessageReplyEvent):
            event = self.successResultOf(sink.get())
        self.assertEqual(event.payload.rstrip(b"\0"), b"meanwhile")
        waiting = sink.get()
        self.assertNoResult(waiting)
        thin.stop()
        self.network.run(1)
        self.assertEqual(len(self.side.daemon.apps), 0)
        self.assertIsInstance(self.successResultOf(waiting), DaemonDisconnected)
        self.failureResultOf(sink.get(), StopAsyncIteration)


class ConfigTests(SynchronousTestCase):
    """Config objects."""

    def test_files(self) -> None:
        """A path, a Config with callbacks; mistakes name the file."""
        path = Path(self.mktemp())
        path.write_text('[Dial.Tcp]\nAddress = "127.0.0.1:64331"\nNetwork = "tcp"\n')
        config = Config(path, on_message_sent=print)
        self.assertEqual(config.dial, DIAL)
        self.assertEqual(ThinClient(config, Clock())._callbacks, {"on_message_sent": print})
        self.assertEqual(ThinClient(str(path), Clock()).config.dial, DIAL)
        path.write_text("[Dial]\n")
        error = self.assertRaises(Exception, Config, path)
        self.assertIn("no dial transport configured", str(error))
        self.assertIn(str(path), str(error))
