"""The back end ``bolt``: the common suite, and what is particular to files."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import katzentwist
from katzentwist.errors import SpoolFullError, StoreError
from katzentwist.interfaces import SpoolEntry
from katzentwist.store import database, embedded
from katzentwist.store.embedded import EmbeddedSpool, EmbeddedUserDB

from .conformance import KEY, SpoolConformance, UserConformance, fails

ROOT = Path(katzentwist.__file__).parent.parent


class _Files(TestCase):
    """Each test has a folder, and closes what it opened."""

    def path(self) -> Path:
        return Path(self.mktemp())

    async def opened(self, cls, path: Path | None = None):
        """An open database."""
        made = cls(path or self.path(), reactor.callFromThread)
        await made.open()
        self.addCleanup(made.close)
        return made


class EmbeddedSpoolTests(SpoolConformance, _Files):
    """The spool in a file."""

    async def make(self):
        return await self.opened(EmbeddedSpool)

    async def test_vacuum(self) -> None:
        """Deletes all queues but those that are named; short names are compared as if filled up."""
        spool = await self.make()
        for user in (b"alice", b"bob", b"carol"):
            await spool.store_message(user, user)
        await spool.vacuum({b"bob".ljust(32, b"\0"), b"carol"})
        self.assertEqual(set(await spool.users()), {b"bob", b"carol"})

    async def test_full_for_one(self) -> None:
        """A user with too many messages gets no more until one is gone; others do."""
        self.patch(embedded, "MOST_ENTRIES", 3)
        spool = await self.make()
        for number in range(3):
            await spool.store_message(b"alice", bytes([number]))
        await self.assertFailure(spool.store_message(b"alice", b"one too many"), SpoolFullError)
        await self.assertFailure(spool.store_surb_reply(b"alice", bytes(16), b"as well"), SpoolFullError)
        await spool.store_message(b"bob", b"for another")
        entry, _ = await spool.get(b"alice", True)
        self.assertEqual(entry.message, bytes([1]))
        await spool.store_message(b"alice", b"room again")

    async def test_full_for_all(self) -> None:
        """A file that is too large takes nothing more, for whomever, until something is deleted."""
        spool = await self.make()
        self.patch(embedded, "MOST_BYTES", 1 << 20)
        stored = 0
        with self.assertRaises(SpoolFullError):
            for number in range(1000):
                await spool.store_message(str(number).encode(), bytes(2600))
                stored += 1
        self.assertTrue(200 < stored < 400, stored)
        await spool.vacuum({b"1"})
        await spool.store_message(b"new", bytes(2600))


class EmbeddedUserTests(UserConformance, _Files):
    """The users in a file."""

    async def make(self):
        return await self.opened(EmbeddedUserDB)


class FileTests(_Files):
    """Opening, closing, refusing."""

    async def test_everything_is_there_after_a_restart(self) -> None:
        """Close, open, find."""
        path = self.path()
        spool = await self.opened(EmbeddedSpool, path)
        await spool.store_message(b"alice", b"one")
        await spool.store_message(b"alice", b"two")
        entry, _ = await spool.get(b"alice", False)
        await spool.advance(b"alice", entry)
        await spool.close()
        spool = await self.opened(EmbeddedSpool, path)
        self.assertEqual(await spool.get(b"alice", False), (SpoolEntry(b"two", None), 0))
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)

    async def test_second_process(self) -> None:
        """A file that another process uses is refused with a sentence that says so."""
        self.patch(database, "BUSY", 0.2)
        path = self.path()
        spool = await self.opened(EmbeddedSpool, path)
        await spool.store_message(b"alice", b"one")
        code = (
            "import sys; from pathlib import Path; from twisted.internet import reactor\n"
            "from katzentwist.store import database; database.BUSY = 0.2\n"
            "from katzentwist.store.embedded import EmbeddedSpool\n"
            "spool = EmbeddedSpool(Path(sys.argv[1]), reactor.callFromThread)\n"
            "reactor.callWhenRunning(lambda: spool.open().addBoth(lambda r: (print(r), reactor.stop())))\n"
            "reactor.run()\n"
        )
        found = await deferToThread(
            subprocess.run,
            [sys.executable, "-c", code, str(path.absolute())],
            capture_output=True,
            text=True,
            timeout=30,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        self.assertIn("is in use by another process", found.stdout)

    async def test_locked_by_somebody_else(self) -> None:
        """A lock on the file at the start: the same sentence."""
        self.patch(database, "BUSY", 0.1)
        path = self.path()
        other = sqlite3.connect(path, isolation_level=None)
        self.addCleanup(other.close)
        other.execute("CREATE TABLE x (y)")
        other.execute("BEGIN EXCLUSIVE")
        error = await fails(self, StoreError, EmbeddedSpool(path, reactor.callFromThread).open())
        self.assertIn("is in use by another process", str(error))

    async def test_nobody_else_gets_in_while_we_work(self) -> None:
        """Whoever tries to lock the running database is refused, and our work goes on."""
        path = self.path()
        spool = await self.opened(EmbeddedSpool, path)
        await spool.store_message(b"alice", b"one")
        other = sqlite3.connect(path, timeout=0, isolation_level=None)
        self.addCleanup(other.close)
        self.assertRaises(sqlite3.OperationalError, other.execute, "BEGIN EXCLUSIVE")
        await spool.store_message(b"alice", b"two")

    async def test_foreign_files(self) -> None:
        """A BoltDB file, any other file, a damaged one, one of another kind or version: refused, left as they are."""
        bolt, text, damaged, kind, newer = (self.path() for _ in range(5))
        bolt.write_bytes(bytes(16) + bytes.fromhex("edda0ced") + bytes(100))
        text.write_text("hello " * 100)
        for path in (damaged, newer):
            spool = await self.opened(EmbeddedSpool, path)
            await spool.store_message(b"alice", bytes(9000))
            await spool.close()
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:4096] + b"\xff" * 4096 + whole[8192:])
        users = await self.opened(EmbeddedUserDB, kind)
        await users.close()
        connection = sqlite3.connect(newer)
        connection.execute("UPDATE katzentwist SET value = '99' WHERE name = 'version'")
        connection.commit()
        connection.close()
        for path, words in (
            (bolt, "BoltDB"), (text, "not a database of ours"), (damaged, "damaged|malformed"),
            (kind, "is a users database"), (newer, "schema version 99"),
        ):  # fmt: skip
            before = path.read_bytes()
            error = await fails(self, StoreError, EmbeddedSpool(path, reactor.callFromThread).open())
            self.assertRegex(str(error), words)
            self.assertEqual(path.read_bytes(), before)

    async def test_folder_in_the_place_of_the_file(self) -> None:
        """Is an error, not a traceback."""
        path = self.path()
        path.mkdir()
        await fails(self, StoreError, EmbeddedSpool(path, reactor.callFromThread).open())

    async def test_full_disk(self) -> None:
        """What does not fit fails and leaves nothing; what was there stays; when there is room it works again."""
        spool = await self.opened(EmbeddedSpool)
        await spool.store_message(b"alice", b"first")
        await spool._db.run(lambda db: db.execute("PRAGMA max_page_count = 20").fetchone())
        stores = [spool.store_message(b"alice", bytes([n]) * 3000) for n in range(60)]
        outcomes = await DeferredList(stores, consumeErrors=True)
        outcomes += await DeferredList(
            [spool.store_message(b"alice", bytes(9000)) for n in range(20)], consumeErrors=True
        )
        self.assertFalse(all(success for success, _ in outcomes))
        self.assertTrue(all(f.check(StoreError) for success, f in outcomes if not success))
        stored = [bytes([n]) * 3000 for n, (success, _) in enumerate(outcomes[:60]) if success]
        stored += [bytes(9000) for success, _ in outcomes[60:] if success]
        entry, _ = await spool.get(b"alice", False)
        self.assertEqual(entry.message, b"first")
        for message in stored:
            entry, _ = await spool.advance(b"alice", entry)
            self.assertEqual(entry.message, message)
        self.assertEqual(await spool.advance(b"alice", entry), (None, 0))
        await spool._db.run(lambda db: db.execute("PRAGMA max_page_count = 100000").fetchone())
        await spool.store_message(b"alice", bytes(200_000))

    async def test_a_mistake_in_one_job_spoils_no_other(self) -> None:
        """The others of its transaction are carried out, and the thread lives."""
        users = await self.opened(EmbeddedUserDB)
        good = [users.add(bytes([65 + n]), KEY) for n in range(3)]
        bad = users._db.run(lambda db: 1 / 0)
        more = users.add(b"more", KEY)
        with self.assertRaises(ZeroDivisionError):
            await bad
        await DeferredList([*good, more], fireOnOneErrback=True)
        self.assertEqual(len(await users.users()), 4)

    async def test_closed(self) -> None:
        """After close everything fails, and a second close is fine."""
        spool = await self.opened(EmbeddedSpool)
        await spool.close()
        await spool.close()
        await fails(self, StoreError, spool.store_message(b"alice", b"x"))
