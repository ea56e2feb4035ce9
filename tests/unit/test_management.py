"""The management socket: dialogue, commands, server (node 9, provider 7)."""

from __future__ import annotations

import shutil
import socket
import stat
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.internet.testing import StringTransport
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import SynchronousTestCase, TestCase

from katzentwist.crypto import kem
from katzentwist.errors import ConfigError, PluginError, StoreError
from katzentwist.management._core import MAX_LINE, ArgumentFault, Command, Lines, LineTooLongError
from katzentwist.management.commands import RateCommands, ServiceCommands, UserCommands
from katzentwist.management.console import Console, ConsoleError
from katzentwist.management.server import Management, Session
from katzentwist.provider.ratelimit import LimitSource
from katzentwist.store.embedded import EmbeddedSpool, EmbeddedUserDB
from tests.vectorfiles import load


class LineTests(SynchronousTestCase):
    """The line core."""

    @given(st.lists(st.binary(max_size=40).map(lambda b: b.replace(b"\n", b"").rstrip(b"\r")), max_size=20), st.data())
    def test_any_cut(self, lines: list[bytes], data: Any) -> None:
        """However the stream is cut, the lines are the same."""
        stream = b"".join(line + (b"\r\n" if i % 2 else b"\n") for i, line in enumerate(lines))
        cutter, got = Lines(), []
        at = 0
        while at < len(stream):
            step = data.draw(st.integers(1, 30))
            cutter.receive(stream[at : at + step])
            got.extend(cutter)
            at += step
        self.assertEqual(got, lines)

    def test_long_lines(self) -> None:
        """64 KiB are fine; more than the limit is refused, with and without an end."""
        lines = Lines()
        lines.receive(b"x" * 65536 + b"\n")
        self.assertEqual(lines.take(), b"x" * 65536)
        lines.receive(b"x" * (MAX_LINE + 1))
        self.assertRaises(LineTooLongError, lines.take)
        lines = Lines()
        lines.receive(b"x" * (MAX_LINE + 1) + b"\n")
        self.assertRaises(LineTooLongError, lines.take)

    def test_commands(self) -> None:
        """Single blanks separate, tabs do not, a PEM block is one argument."""
        self.assertEqual(Command.parse(b"  add_user a  b "), Command("ADD_USER", "a  b"))
        self.assertEqual(Command.parse(b"ADD_USER a  b").arguments, ["a", "", "b"])
        self.assertEqual(Command.parse(b"QUIT").arguments, [])
        self.assertEqual(Command.parse(b"").word, "")
        pem = "-----BEGIN X25519 PUBLIC KEY----- YWJj -----END X25519 PUBLIC KEY-----"
        self.assertEqual(Command.parse(f"ADD_USER a {pem}".encode()).arguments, ["a", pem])

    @given(st.binary(max_size=200))
    def test_any_bytes(self, raw: bytes) -> None:
        """Any line is a command."""
        self.assertIsInstance(Command.parse(raw).arguments, list)


class FakeServices:
    """Services that can start when they are stopped, and the other way round."""

    def __init__(self) -> None:
        self.running = {"echo"}

    def start_one(self, capability: str) -> Deferred[None]:
        """Fails if it runs."""
        if capability in self.running:
            return fail(PluginError("it runs"))
        self.running.add(capability)
        return succeed(None)

    def stop_one(self, capability: str) -> Deferred[None]:
        """Fails if it does not run."""
        if capability not in self.running:
            return fail(PluginError("it does not run"))
        self.running.discard(capability)
        return succeed(None)


class SessionTests(SynchronousTestCase):
    """One connection, without a reactor."""

    def setUp(self) -> None:
        """A management with a command that waits."""
        self.waiting: list[Deferred[str]] = []
        self.ran: list[list[str]] = []
        self.downs = 0

        def wait(arguments: list[str]) -> Deferred[str]:
            self.ran.append(arguments)
            self.waiting.append(Deferred())
            return self.waiting[-1]

        async def broken(arguments: list[str]) -> str:
            raise ZeroDivisionError

        async def wrong(arguments: list[str]) -> str:
            raise ArgumentFault("no")

        def down() -> None:
            self.downs += 1

        table: Any = {"WAIT": wait, "BROKEN": broken, "WRONG": wrong, **ServiceCommands(FakeServices()).table()}
        self.management = Management(None, "/x", "example.com", table, down)

    def session(self) -> tuple[Session, StringTransport]:
        """A new connection."""
        session, transport = self.management.buildProtocol(None), StringTransport()
        session.makeConnection(transport)
        self.assertEqual(transport.value(), b"220 example.com Katzenpost Management Interface Service ready\r\n")
        transport.clear()
        return session, transport

    def test_one_after_another(self) -> None:
        """Commands of all connections are executed one after another, and answered where they came from."""
        (one, to_one), (two, to_two) = self.session(), self.session()
        one.dataReceived(b"WAIT 1\nWAIT 2\n")
        two.dataReceived(b"WAIT 3\n")
        self.assertEqual(self.ran, [["1"]])
        self.assertEqual(to_one.producerState, "paused")
        self.waiting[0].callback("first")
        self.assertEqual(to_one.value(), b"250 first\r\n")
        self.assertEqual(self.ran, [["1"], ["3"]])
        self.waiting[1].callback("third")
        self.waiting[2].callback("second")
        self.assertEqual(to_one.value(), b"250 first\r\n250 second\r\n")
        self.assertEqual(to_two.value(), b"250 third\r\n")
        self.assertEqual(to_one.producerState, "producing")

    def test_client_that_leaves(self) -> None:
        """A command whose client left is finished, and the others go on."""
        (one, _), (two, to_two) = self.session(), self.session()
        one.dataReceived(b"WAIT 1\n")
        one.connectionLost()
        two.dataReceived(b"START_KAETZCHEN x\n")
        self.assertEqual(to_two.value(), b"")
        self.waiting[0].callback("")
        self.assertEqual(to_two.value(), b"250 x\r\n")
        self.assertEqual(len(self.management.sessions), 1)

    def test_client_that_never_reads(self) -> None:
        """Once replies pile up nothing more is read or executed; it goes on when they are read."""
        session, transport = self.session()
        session.pauseProducing()
        session.dataReceived(b"START_KAETZCHEN a\n" * 3)
        self.assertEqual(transport.value(), b"")
        self.assertEqual(transport.producerState, "paused")
        session.resumeProducing()
        self.assertEqual(transport.value(), b"250 a\r\n" + b"554 Transaction failed\r\n" * 2)

    def test_many_lines_at_once(self) -> None:
        """Thousands of empty lines in one segment are answered without recursion."""
        session, transport = self.session()
        session.dataReceived(b"\n" * 5000)
        self.assertEqual(transport.value().count(b"500 Syntax error, command unrecognised\r\n"), 5000)

    def test_line_without_end(self) -> None:
        """It is hung up on."""
        session, transport = self.session()
        for _ in range(MAX_LINE // 65536 + 1):
            session.dataReceived(b"x" * 65536)
        self.assertTrue(transport.disconnecting)

    def test_errors(self) -> None:
        """Wrong arguments 501, failures 554, and an error of ours is 554 with a traceback in the log."""
        session, transport = self.session()
        session.dataReceived(b"WRONG\nSTOP_KAETZCHEN nothing\nSTOP_KAETZCHEN\nSTOP_KAETZCHEN a b\nBROKEN\n")
        codes = [line[:3] for line in transport.value().splitlines()]
        self.assertEqual(codes, [b"501", b"554", b"501", b"501", b"554"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_shutdown(self) -> None:
        """SHUTDOWN has no reply, and what follows it is not executed."""
        session, transport = self.session()
        session.dataReceived(b"shutdown\nSTOP_KAETZCHEN echo\n")
        self.assertEqual((transport.value(), self.downs), (b"", 1))

    def test_quit(self) -> None:
        """QUIT is answered, then the connection ends."""
        session, transport = self.session()
        session.dataReceived(b"quit now\nSTOP_KAETZCHEN echo\n")
        self.assertEqual(transport.value(), b"250 Requested action ok, completed\r\n")
        self.assertTrue(transport.disconnecting)

    def test_tables(self) -> None:
        """User commands and rates are unknown where there are no users."""
        session, transport = self.session()
        session.dataReceived(b"ADD_USER a b\nSEND_RATE 30\n")
        self.assertEqual([line[:3] for line in transport.value().splitlines()], [b"500", b"500"])


class _Talk(Protocol):
    def __init__(self) -> None:
        self.got = b""
        self.closed = False
        self._waiting: list[tuple[int, Deferred[None]]] = []

    def dataReceived(self, data: bytes) -> None:
        self.got += data
        self._look()

    def connectionLost(self, reason: Any = None) -> None:
        self.closed = True
        self._look()

    def _look(self) -> None:
        for entry in list(self._waiting):
            if self.closed or self.got.count(b"\n") >= entry[0]:
                self._waiting.remove(entry)
                entry[1].callback(None)

    def lines(self, number: int) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self._waiting.append((number, done))
        self._look()
        return done


class SocketTests(TestCase):
    """A real socket over the real embedded databases."""

    timeout = 30

    def setUp(self) -> Deferred[None]:
        """A node's worth of commands."""
        self.folder = Path(tempfile.mkdtemp(prefix="kt-"))
        self.path = self.folder / "management_sock"
        self.changed: list[bytes] = []
        return Deferred.fromCoroutine(self._start())

    async def _start(self) -> None:
        call = reactor.callFromThread
        users, spool = EmbeddedUserDB(self.folder / "u.db", call), EmbeddedSpool(self.folder / "s.db", call)
        await users.open()
        await spool.open()
        self.users, self.spool, self.limits = users, spool, LimitSource()
        table = {
            **UserCommands(users, spool, kem.by_name("x25519"), self.changed.append).table(),
            **RateCommands(self.limits, lambda: None).table(),
        }
        self.management = Management(reactor, str(self.path), "example.com", table, lambda: None)
        await self.management.start()

    def tearDown(self) -> Deferred[None]:
        """Close everything."""

        async def close() -> None:
            await self.management.stop()
            self.assertFalse(self.path.exists())
            await self.users.close()
            await self.spool.close()
            shutil.rmtree(self.folder)

        return Deferred.fromCoroutine(close())

    async def connect(self) -> _Talk:
        """A client."""
        return await connectProtocol(UNIXClientEndpoint(reactor, str(self.path)), _Talk())

    async def test_vectors(self) -> None:
        """The transcript of the reference; where ours must differ, as it must."""
        talk = await self.connect()
        expected = 0
        for entry in load("provider")["management"]:
            line = entry.get("differs", entry["line"])
            if entry["dir"] == "C":
                talk.transport.write(line.encode())
            elif line == "<EOF>":
                await talk.lines(10**6)
                self.assertTrue(talk.closed)
            else:
                expected += 1
                await talk.lines(expected)
                self.assertEqual(talk.got.splitlines(keepends=True)[expected - 1], line.encode(), entry)
        self.assertEqual(self.changed, [b"frank", b"frank"])

    async def test_mode(self) -> None:
        """Only the owner may connect."""
        mode = self.path.stat().st_mode
        self.assertTrue(stat.S_ISSOCK(mode))
        self.assertEqual(stat.S_IMODE(mode), 0o700)

    async def test_removal_ends_mail(self) -> None:
        """REMOVE_USER deletes what waits; when that fails the answer is 250 all the same."""
        commands = UserCommands(self.users, self.spool, kem.by_name("x25519"), self.changed.append)
        key = "ed" * 32
        await commands.add(["alice", key])
        await self.spool.store_message(b"alice", b"hello")
        await commands.remove(["alice"])
        self.assertEqual(await self.spool.users(), [])
        await commands.add(["bob", key])

        class Broken:
            def remove(self, user: bytes) -> Deferred[None]:
                return fail(StoreError("disk full"))

        broken: Any = UserCommands(self.users, Broken(), kem.by_name("x25519"), self.changed.append)  # type: ignore
        self.assertEqual(await broken.remove(["bob"]), "Requested action ok, completed")

    async def test_pem(self) -> None:
        """A link key as PEM, with its line ends as blanks or as backslash and n."""
        commands = UserCommands(self.users, self.spool, kem.by_name("x25519"), self.changed.append)
        body = "7TBzg/P7el8KH1DVM8a/kd+EM0lUIjKu501c3Ru9+mY="
        for name, gap in (("a", " "), ("b", "\\n")):
            pem = gap.join(["-----BEGIN X25519 PUBLIC KEY-----", body, "-----END X25519 PUBLIC KEY-----"])
            await commands.add(Command.parse(f"ADD_USER {name} {pem}".encode()).arguments)
            self.assertEqual(await commands.link([name]), body)

    async def test_console(self) -> None:
        """``katzentwist manage``'s end, from a thread."""

        def talk() -> list[Any]:
            with Console(self.folder) as console:
                return [console.ask("SEND_RATE 30"), console.ask("NO"), console.ask("QUIT")]

        answers = await deferToThread(talk)
        self.assertEqual([a.code if a else None for a in answers], [250, 500, 250])
        self.assertRaises(ConsoleError, Console, self.folder / "nothing")

    async def test_stale_file(self) -> None:
        """A file in the way is deleted, a folder is an error."""
        other = self.folder / "other"
        with socket.socket(socket.AF_UNIX) as stale:
            stale.bind(str(other))
        again = Management(reactor, str(other), "x", {}, lambda: None)
        await again.start()
        await again.stop()
        (self.folder / "d").mkdir()
        with self.assertRaises(ConfigError):
            await Management(reactor, str(self.folder / "d"), "x", {}, lambda: None).start()
        with self.assertRaises(ConfigError):
            await Management(reactor, "/" + "x" * 108, "x", {}, lambda: None).start()
