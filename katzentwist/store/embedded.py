"""The back end ``bolt``: users and spool in SQLite files (spec: provider 2.3 and 4)."""

from __future__ import annotations

import hmac
import sqlite3
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from zope.interface import implementer

from katzentwist.errors import NoIdentityError, NoSuchUserError, SpoolFullError, UserExistsError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry
from katzentwist.store.checks import MAX_NAME, check_key, check_surb_id, check_user
from katzentwist.store.database import Database, Schema

MOST_ENTRIES: Final = 10_000
"""Most messages that wait for one user, 26 MB; the newest is refused (spec: provider 4.1 leaves it free)."""
MOST_BYTES: Final = 8 << 30
"""Most bytes of all messages: at a gateway without users anybody can make queues."""

SPOOL_SCHEMA = Schema(
    "spool",
    {
        1: (
            """CREATE TABLE entry (
                id INTEGER PRIMARY KEY AUTOINCREMENT, user BLOB NOT NULL, surb_id BLOB, message BLOB NOT NULL)""",
            "CREATE INDEX entry_by_user ON entry (user, id)",
        )
    },
)
USER_SCHEMA = Schema(
    "users",
    {
        1: (
            """CREATE TABLE user (
                name BLOB PRIMARY KEY, link_key BLOB NOT NULL, identity_key BLOB,
                ephemeral INTEGER NOT NULL DEFAULT 0) WITHOUT ROWID""",
            "CREATE INDEX user_ephemeral ON user (name) WHERE ephemeral",
        )
    },
)


@implementer(ISpool)
class EmbeddedSpool:
    """The spool in one file."""

    def __init__(self, path: Path, call_in_reactor: Callable[..., Any]) -> None:
        self._db = Database(path, SPOOL_SCHEMA, call_in_reactor)

    def open(self) -> Deferred[None]:
        """Open the file."""
        return self._db.open()

    def store_message(self, user: bytes, message: bytes) -> Deferred[None]:
        """Append a plain message."""
        return self._store(user, None, message)

    def store_surb_reply(self, user: bytes, surb_id: bytes, message: bytes) -> Deferred[None]:
        """Append a SURB reply."""
        return self._store(user, surb_id, message)

    def _store(self, user: bytes, surb_id: bytes | None, message: bytes) -> Deferred[None]:
        def job(db: sqlite3.Connection) -> None:
            check_user(user)
            if surb_id is not None:
                check_surb_id(surb_id)
            _check_room(db, user)
            db.execute("INSERT INTO entry (user, surb_id, message) VALUES (?, ?, ?)", (user, surb_id, message))

        return self._db.run(job)

    def get(self, user: bytes, advance: bool) -> Deferred[tuple[SpoolEntry | None, int]]:
        """The first entry, and whether more follow."""

        def job(db: sqlite3.Connection) -> tuple[SpoolEntry | None, int]:
            if advance:
                db.execute(
                    "DELETE FROM entry WHERE id = (SELECT id FROM entry WHERE user = ? ORDER BY id LIMIT 1)", (user,)
                )
            return _first(db, user)

        return self._db.run(job)

    def advance(self, user: bytes, entry: SpoolEntry) -> Deferred[tuple[SpoolEntry | None, int]]:
        """Delete *entry*; the entry after it."""

        def job(db: sqlite3.Connection) -> tuple[SpoolEntry | None, int]:
            db.execute("DELETE FROM entry WHERE id = ? AND user = ?", (entry.number, user))
            return _first(db, user)

        return self._db.run(job)

    def remove(self, user: bytes) -> Deferred[None]:
        """Delete a queue."""

        def job(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM entry WHERE user = ?", (user,))

        return self._db.run(job)

    def vacuum(self, keep: Collection[bytes]) -> Deferred[None]:
        """Delete all other queues; short names are compared as recipient ids are, filled up with zero bytes."""
        stay = {user.ljust(MAX_NAME, b"\0") for user in keep}

        def job(db: sqlite3.Connection) -> None:
            for (user,) in db.execute("SELECT DISTINCT user FROM entry").fetchall():
                if user.ljust(MAX_NAME, b"\0") not in stay:
                    db.execute("DELETE FROM entry WHERE user = ?", (user,))

        return self._db.run(job)

    def users(self) -> Deferred[list[bytes]]:
        """Users with a queue."""
        return self._db.run(lambda db: [row[0] for row in db.execute("SELECT DISTINCT user FROM entry")])

    def close(self) -> Deferred[None]:
        """Close the file."""
        return self._db.close()


@implementer(IUserDB)
class EmbeddedUserDB:
    """The users in one file."""

    def __init__(self, path: Path, call_in_reactor: Callable[..., Any]) -> None:
        self._db = Database(path, USER_SCHEMA, call_in_reactor)

    def open(self) -> Deferred[None]:
        """Open the file."""
        return self._db.open()

    def exists(self, user: bytes) -> Deferred[bool]:
        """Whether the user is there."""
        return self._db.run(lambda db: _row(db, "1", user) is not None)

    def is_valid(self, user: bytes, link_key: bytes) -> Deferred[bool]:
        """Whether the user has this key."""

        def job(db: sqlite3.Connection) -> bool:
            row = _row(db, "link_key", user)
            return row is not None and hmac.compare_digest(row[0], link_key)

        return self._db.run(job)

    def add(self, user: bytes, link_key: bytes, update: bool = False, ephemeral: bool = False) -> Deferred[None]:
        """Create or update."""

        def job(db: sqlite3.Connection) -> None:
            check_user(user)
            check_key(link_key)
            there = _row(db, "1", user) is not None
            if update and not there:
                raise NoSuchUserError("no such user")
            if there and not update:
                raise UserExistsError("user already exists")
            db.execute(
                "INSERT INTO user (name, link_key, ephemeral) VALUES (?1, ?2, ?3) "
                "ON CONFLICT (name) DO UPDATE SET link_key = ?2, ephemeral = ?3",
                (user, link_key, int(ephemeral)),
            )

        return self._db.run(job)

    def link(self, user: bytes) -> Deferred[bytes]:
        """The link key."""
        return self._db.run(lambda db: bytes(_known(db, "link_key", user)))

    def set_identity(self, user: bytes, key: bytes | None) -> Deferred[None]:
        """Set or remove the identity key."""

        def job(db: sqlite3.Connection) -> None:
            _known(db, "1", user)
            db.execute("UPDATE user SET identity_key = ? WHERE name = ?", (key, user))

        return self._db.run(job)

    def identity(self, user: bytes) -> Deferred[bytes]:
        """The identity key."""

        def job(db: sqlite3.Connection) -> bytes:
            key = _known(db, "identity_key", user)
            if key is None:
                raise NoIdentityError("no identity")
            return bytes(key)

        return self._db.run(job)

    def remove(self, user: bytes) -> Deferred[None]:
        """Delete the user."""

        def job(db: sqlite3.Connection) -> None:
            _known(db, "1", user)
            db.execute("DELETE FROM user WHERE name = ?", (user,))

        return self._db.run(job)

    def ephemeral_users(self) -> Deferred[list[bytes]]:
        """Users let in without being known."""
        return self._db.run(lambda db: [row[0] for row in db.execute("SELECT name FROM user WHERE ephemeral")])

    def users(self) -> Deferred[list[bytes]]:
        """All users."""
        return self._db.run(lambda db: [row[0] for row in db.execute("SELECT name FROM user")])

    def close(self) -> Deferred[None]:
        """Close the file."""
        return self._db.close()


def _check_room(db: sqlite3.Connection, user: bytes) -> None:
    """:raises SpoolFullError: the user has too many messages, or all have."""
    query = "SELECT count(*) FROM (SELECT 1 FROM entry WHERE user = ? LIMIT ?)"
    ((waiting,),) = db.execute(query, (user, MOST_ENTRIES))
    if waiting >= MOST_ENTRIES:
        raise SpoolFullError(f"{MOST_ENTRIES} messages wait for one user")
    ((used,),) = db.execute(
        "SELECT (page_count - freelist_count) * page_size "
        "FROM pragma_page_count, pragma_freelist_count, pragma_page_size"
    )
    if used >= MOST_BYTES:
        raise SpoolFullError(f"the spool has {MOST_BYTES >> 20} MiB")


def _first(db: sqlite3.Connection, user: bytes) -> tuple[SpoolEntry | None, int]:
    rows = db.execute("SELECT message, surb_id, id FROM entry WHERE user = ? ORDER BY id LIMIT 2", (user,)).fetchall()
    return (SpoolEntry(*rows[0]), len(rows) - 1) if rows else (None, 0)


def _row(db: sqlite3.Connection, column: str, user: bytes) -> Any:
    return db.execute(f"SELECT {column} FROM user WHERE name = ?", (user,)).fetchone()  # noqa: S608 - ours


def _known(db: sqlite3.Connection, column: str, user: bytes) -> Any:
    row = _row(db, column, user)
    if row is None:
        raise NoSuchUserError("no such user")
    return row[0]
