"""The back end ``extern``: all vectors, and a real HTTP server that says no, nonsense, nothing."""

from __future__ import annotations

from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site
from zope.interface.verify import verifyObject

from katzentwist.crypto import kem
from katzentwist.errors import NoIdentityError, StoreError
from katzentwist.interfaces import IUserDB
from katzentwist.randomness import SeededRandom
from katzentwist.store import http
from katzentwist.store.http import READ_ONLY, UNSUPPORTED, HTTPUserDB

from ..vectorfiles import load, unhex
from .conformance import KEY, fails

X25519 = kem.by_name("x25519")


class Service(Resource):
    """Answers what it is told, and keeps what it was asked."""

    isLeaf = True

    def __init__(self) -> None:
        super().__init__()
        self.answer: Any = (200, b"{}")
        self.asked: list[dict[str, Any]] = []
        self.held: list[Any] = []

    def render(self, request: Any) -> Any:
        self.asked.append(
            {
                "method": request.method.decode(),
                "target": request.uri.decode(),
                "content_type": request.getHeader("content-type"),
                "body": request.content.read().decode(),
            }
        )
        if self.answer is None:
            self.held.append(request)
            return NOT_DONE_YET
        status, body = self.answer
        request.setResponseCode(status)
        if status == 302:
            request.setHeader("Location", "/elsewhere")
        return body


class HTTPTests(TestCase):
    """Against a server on a real socket."""

    timeout = 30

    def setUp(self) -> None:
        self.service = Service()
        self.port = reactor.listenTCP(0, Site(self.service), interface="127.0.0.1")
        self.base = f"http://127.0.0.1:{self.port.getHost().port}"
        self.db = self._db("/base/")

    async def tearDown(self) -> None:
        for request in self.service.held:
            if request.channel is not None:
                request.transport.abortConnection()
        await self.port.stopListening()
        await deferLater(reactor, 0.05)
        await self.db.close()

    def _db(self, path: str, scheme: Any = X25519) -> HTTPUserDB:
        return HTTPUserDB(reactor, self.base + path, scheme)

    def test_interface(self) -> None:
        """It is an IUserDB."""
        verifyObject(IUserDB, self.db)

    async def test_vectors(self) -> None:
        """Requests byte by byte, and what every answer means."""
        vectors = load("provider")["extern"]
        self.assertGreater(len(vectors), 30)
        for number, vector in enumerate(vectors):
            self.assertEqual(vector["base"], "/base")
            self.service.answer = (vector["reply"]["Status"], vector["reply"]["Body"].encode())
            self.service.asked.clear()
            found = await self._ask(vector["op"], vector["user"].encode(), unhex(vector.get("key_hex")))
            expected = vector.get("error", vector.get("key_hex_result", vector.get("result")))
            self.assertEqual(found, expected, f"vector {number}")
            self.assertEqual(self.service.asked, [vector["request"]])

    async def _ask(self, operation: str, user: bytes, key: bytes) -> Any:
        try:
            match operation:
                case "exists":
                    return await self.db.exists(user)
                case "isvalid":
                    return await self.db.is_valid(user, key)
                case "getidkey":
                    return (await self.db.identity(user)).hex()
        except NoIdentityError:
            return "no identity"
        except StoreError:
            return "failure" if operation == "getidkey" else False
        raise AssertionError(operation)

    async def test_binary_names(self) -> None:
        """Go out as their bytes."""
        self.service.answer = (200, b'{"exists": true}')
        self.assertTrue(await self.db.exists(b"\xff a+b~\x00"))
        self.assertEqual(self.service.asked[0]["body"], "user=%FF+a%2Bb~%00")

    async def test_large_keys_are_pem(self) -> None:
        """Those of xwing."""
        scheme = kem.by_name("xwing")
        _, public = scheme.generate(SeededRandom("pem"))
        db = self._db("/x", scheme)
        self.service.answer = (200, b'{"isvalid": true} and more')
        self.assertTrue(await db.is_valid(b"alice", public))
        body = self.service.asked[0]["body"]
        self.assertTrue(body.startswith("key=-----BEGIN+XWING+PUBLIC+KEY-----%0A"), body[:60])
        self.service.answer = (200, b'{"getidkey": "%s"}' % public.hex().encode())
        self.assertEqual(await db.identity(b"alice"), public)
        await db.close()

    async def test_not_well_formed(self) -> None:
        """No proper answer is told apart from a proper no."""
        self.service.answer = (200, b'{"exists": false}')
        self.assertIs(await self.db.exists(b"alice"), False)
        for status, body in (
            (500, b'{"exists": false}'), (302, b'{"exists": true}'), (200, b"\xff\xfe"), (200, b"[" * 50_000),
            (200, b"{}"), (200, b'{"exists": null}'), (200, b'{"EXISTS": true}'), (200, b'{"exists": true'),
            (200, b'{"exists": true}' + b" " * 100_000),
        ):  # fmt: skip
            self.service.answer = (status, body)
            await fails(self, StoreError, self.db.exists(b"alice"))
        self.assertNotIn("/elsewhere", [a["target"] for a in self.service.asked])

    async def test_hanging_service(self) -> None:
        """Fails in time, whatever number of questions wait."""
        self.patch(http, "TIMEOUT", 0.3)
        self.service.answer = None
        began = reactor.seconds()
        outcomes = await DeferredList([self.db.exists(b"alice") for _ in range(100)], consumeErrors=True)
        self.assertEqual([f for success, f in outcomes if success or not f.check(StoreError)], [])
        self.assertLess(reactor.seconds() - began, 3)
        self.service.answer = (200, b'{"exists": true}')
        self.assertTrue(await self.db.exists(b"alice"))

    async def test_hanging_in_the_body(self) -> None:
        """A service that begins an answer and stops, or never ends it, costs no sockets."""
        ended: list[bytes] = []

        class Slow(Protocol):
            answer = b"{"

            def dataReceived(self, data: bytes) -> None:
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + self.answer)

            def connectionLost(self, reason: Any = None) -> None:
                ended.append(self.answer)

        class Endless(Slow):
            answer = bytes(http.ANSWER_LIMIT + 1)

        self.patch(http, "TIMEOUT", 0.3)
        for protocol in (Slow, Endless):
            port = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1")
            db = HTTPUserDB(reactor, f"http://127.0.0.1:{port.getHost().port}", X25519)
            error = await fails(self, StoreError, db.exists(b"alice"))
            self.assertIn("within" if protocol is Slow else "more than", str(error))
            for _ in range(100):
                if ended == [protocol.answer]:
                    break
                await deferLater(reactor, 0.01)
            self.assertEqual(ended, [protocol.answer])
            ended.clear()
            await port.stopListening()
            await db.close()

    async def test_no_service(self) -> None:
        """Nobody listens; somebody listens and hangs up, or talks nonsense."""

        class Rude(Protocol):
            def connectionMade(self) -> None:
                self.transport.write(b"hello\r\n\r\n")
                self.transport.loseConnection()

        class Silent(Protocol):
            def dataReceived(self, data: bytes) -> None:
                self.transport.loseConnection()

        for protocol in (Rude, Silent):
            port = reactor.listenTCP(0, Factory.forProtocol(protocol), interface="127.0.0.1")
            db = HTTPUserDB(reactor, f"http://127.0.0.1:{port.getHost().port}", X25519)
            await fails(self, StoreError, db.exists(b"alice"))
            await port.stopListening()
            error = await fails(self, StoreError, db.exists(b"alice"))
            self.assertIn("refused", str(error))
            await db.close()

    async def test_connection_that_was_closed_while_idle(self) -> None:
        """Is no failure."""
        self.service.answer = (200, b'{"exists": true}')
        for _ in range(3):
            self.assertTrue(await self.db.exists(b"alice"))
            for reader in reactor.getReaders():
                if getattr(reader, "protocol", None).__class__.__name__ == "_GenericHTTPChannelProtocol":
                    reader.loseConnection()

    async def test_writes(self) -> None:
        """Always fail, with the words of the specification."""
        for work in (self.db.add(b"alice", KEY), self.db.add(b"alice", KEY, update=True), self.db.remove(b"alice")):
            self.assertEqual(str(await fails(self, StoreError, work)), READ_ONLY)
        for work in (self.db.link(b"alice"), self.db.set_identity(b"alice", KEY), self.db.users()):
            self.assertEqual(str(await fails(self, StoreError, work)), UNSUPPORTED)
        self.assertEqual(await self.db.ephemeral_users(), [])
        self.assertEqual(self.service.asked, [])
