"""An embedded database: SQLite on a thread of its own, with group commit.

Jobs are functions of a connection. All that wait are run in one transaction, each in a savepoint of its own, so one
full sync serves many; a job's result is delivered only after the commit that holds it. The file is opened with WAL and
full sync, its integrity checked, its schema versioned (design D6).
"""

from __future__ import annotations

import os
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from katzentwist.errors import StoreError

T = TypeVar("T")
Job = Callable[[sqlite3.Connection], T]

BATCH = 256
"""Most jobs in one transaction; bounds how long the first of them waits."""
WAITING = 100_000
"""Most jobs that may wait: beyond that a stuck disk fails new jobs at once instead of filling the memory."""

BUSY = 3.0
"""Seconds to wait at the start for a process that is just ending and still holds the file."""

_SQLITE_MAGIC = b"SQLite format 3\0"
_BOLT_MAGIC = bytes.fromhex("edda0ced")


@attrs.frozen
class Schema:
    """The statements that lead from version n - 1 to version n, by n from 1."""

    name: str
    steps: Mapping[int, tuple[str, ...]]

    @property
    def version(self) -> int:
        """The newest version."""
        return max(self.steps)


@attrs.frozen
class _Waiting(Generic[T]):
    job: Job[T]
    done: Deferred[T]


class Database:
    """One file.

    :param call_in_reactor: ``reactor.callFromThread``.
    """

    def __init__(self, path: Path, schema: Schema, call_in_reactor: Callable[..., Any]) -> None:
        self.path, self._schema = path, schema
        self._call = call_in_reactor
        self._jobs: queue.Queue[_Waiting[Any] | None] = queue.Queue(WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False

    def open(self) -> Deferred[None]:
        """Open or create the file.

        :raises StoreError: (in the Deferred) it is not our database, damaged, locked, or can not be opened.
        """
        opened: Deferred[None] = Deferred()
        self._thread = threading.Thread(target=self._run, args=(opened,), name=f"store {self.path.name}", daemon=True)
        self._thread.start()
        return opened

    def run(self, job: Job[T]) -> Deferred[T]:
        """Run *job* in a transaction; fires with its result once that is on disk.

        :raises StoreError: (in the Deferred) the database failed; nothing of the job remains.
        """
        done: Deferred[T] = Deferred()
        if self._closed:
            done.errback(StoreError(f"{self.path.name} is closed"))
            return done
        try:
            self._jobs.put_nowait(_Waiting(job, done))
        except queue.Full:
            done.errback(StoreError(f"{self.path.name}: more than {WAITING} operations wait for the disk"))
        return done

    def close(self) -> Deferred[None]:
        """Finish what waits, then close the file."""
        done: Deferred[None] = Deferred()
        if self._closed or self._thread is None:
            done.callback(None)
            return done
        self._closed = True

        def wait() -> None:
            self._jobs.put(None)
            if self._thread is not None:
                self._thread.join()
            self._call(done.callback, None)

        threading.Thread(target=wait, name="store close", daemon=True).start()
        return done

    # The thread ----------------------------------------------------------------------------------------------------

    def _run(self, opened: Deferred[None]) -> None:
        connection: sqlite3.Connection | None
        try:
            connection = self._connect()
        except (sqlite3.Error, OSError, StoreError) as e:
            self._call(opened.errback, Failure(e if isinstance(e, StoreError) else self._error(e)))
            return
        self._call(opened.callback, None)
        last = False
        while not last:
            batch, last = self._take()
            if batch:
                results, connection = self._serve(connection, batch)
                self._call(_deliver, results)
        if connection is not None:
            connection.close()

    def _serve(
        self, connection: sqlite3.Connection | None, batch: list[_Waiting[Any]]
    ) -> tuple[list[tuple[Deferred[Any], Any]], sqlite3.Connection | None]:
        """Run a batch; the connection to use from now on, None if the next batch has to open a new one."""
        try:
            if connection is None:
                connection = self._connect()
            return self._transact(connection, batch), connection
        except (sqlite3.Error, OSError, StoreError) as e:
            failure = Failure(e if isinstance(e, StoreError) else self._error(e))
        if connection is not None and not self._rolled_back(connection):
            connection = None
        return [(waiting.done, failure) for waiting in batch], connection

    def _rolled_back(self, connection: sqlite3.Connection) -> bool:
        """Undo an open transaction. When even that fails the file is opened anew before it is used again."""
        try:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        except sqlite3.Error:
            connection.close()
            return False
        return True

    def _take(self) -> tuple[list[_Waiting[Any]], bool]:
        """The jobs that wait, and whether the end was reached."""
        batch: list[_Waiting[Any]] = []
        item = self._jobs.get()
        while item is not None:
            batch.append(item)
            if len(batch) == BATCH:
                return batch, False
            try:
                item = self._jobs.get_nowait()
            except queue.Empty:
                return batch, False
        return batch, True

    def _transact(self, connection: sqlite3.Connection, batch: list[_Waiting[Any]]) -> list[tuple[Deferred[Any], Any]]:
        results: list[tuple[Deferred[Any], Any]] = []
        connection.execute("BEGIN IMMEDIATE")
        for waiting in batch:
            results.append((waiting.done, self._attempt(connection, waiting.job)))
        connection.execute("COMMIT")
        return results

    def _attempt(self, connection: sqlite3.Connection, job: Job[Any]) -> Any:
        """The result of one job, or a Failure; what a failed job changed is undone."""
        connection.execute("SAVEPOINT job")
        try:
            result = job(connection)
        except sqlite3.IntegrityError as e:
            result = Failure(self._error(e))
        except sqlite3.Error:
            raise  # the whole transaction is lost
        except Exception:  # our own errors, and any mistake in a job: it must not end the thread
            result = Failure()
        if isinstance(result, Failure):
            connection.execute("ROLLBACK TO job")
        connection.execute("RELEASE job")
        return result

    def _error(self, error: Exception) -> StoreError:
        return StoreError(f"{self.path}: {error}")

    def _connect(self) -> sqlite3.Connection:
        self._refuse_foreign()
        fresh = not self.path.exists()
        if fresh:
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        connection = sqlite3.connect(self.path, timeout=BUSY, isolation_level=None, check_same_thread=True)
        try:
            # One process only; a second one must not open the file and spoil our view of it.
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN EXCLUSIVE")
            connection.execute("COMMIT")
        except sqlite3.OperationalError as e:
            connection.close()
            if "locked" not in str(e):
                raise
            raise StoreError(f"{self.path} is in use by another process ({e}); stop that one first") from e
        verdict = connection.execute("PRAGMA quick_check").fetchone()[0]
        if verdict != "ok":
            raise StoreError(f"{self.path} is damaged ({verdict}); restore it from a backup or move it away")
        self._migrate(connection)
        return connection

    def _refuse_foreign(self) -> None:
        try:
            with self.path.open("rb") as file:
                head = file.read(64)
        except FileNotFoundError:
            return
        if head[16:20] == _BOLT_MAGIC:
            raise StoreError(
                f"{self.path} is a BoltDB file of the Go implementation, which can not be read; move it away"
            )
        if head and not head.startswith(_SQLITE_MAGIC):
            raise StoreError(f"{self.path} is not a database of ours; move it away")

    def _migrate(self, connection: sqlite3.Connection) -> None:
        connection.execute("CREATE TABLE IF NOT EXISTS katzentwist (name TEXT PRIMARY KEY, value TEXT NOT NULL)")
        found = dict(connection.execute("SELECT name, value FROM katzentwist"))
        kind, version = found.get("kind", self._schema.name), int(found.get("version", "0"))
        if kind != self._schema.name:
            raise StoreError(f"{self.path} is a {kind} database, a {self._schema.name} database belongs here")
        if version > self._schema.version:
            raise StoreError(
                f"{self.path} has schema version {version}, this program knows {self._schema.version}; upgrade"
            )
        connection.execute("BEGIN IMMEDIATE")
        for step in range(version + 1, self._schema.version + 1):
            for statement in self._schema.steps[step]:
                connection.execute(statement)
        for name, value in (("kind", kind), ("version", str(self._schema.version))):
            connection.execute("INSERT OR REPLACE INTO katzentwist VALUES (?, ?)", (name, value))
        connection.execute("COMMIT")


def _deliver(results: list[tuple[Deferred[Any], Any]]) -> None:
    for done, result in results:
        if isinstance(result, Failure):
            done.errback(result)
        else:
            done.callback(result)
