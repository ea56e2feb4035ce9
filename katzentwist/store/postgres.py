"""The back end ``sql``: users and spool in PostgreSQL, by the functions of provider 5.

The server calls the functions of the database. What goes beyond the original script (marks of ephemeral users,
``spool_advance``) is used where it is found; without it marks live in memory and an entry is recognised by its content.
"""

from __future__ import annotations

import contextlib
import hmac
from collections.abc import Collection
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredLock
from zope.interface import implementer

from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry
from katzentwist.logger import ModuleLogger
from katzentwist.store.checks import MAX_NAME, check_key, check_surb_id, check_user
from katzentwist.store.pgpool import Pool, SQLError
from katzentwist.store.turns import Turns, shielded

SCRIPT: Final = "create_database-postgresql.sql"
LEAST_CONNECTIONS: Final = 5
_AMBIGUOUS_COLUMN, _NOT_ALLOWED = "42702", "42501"
_MARK = "INSERT INTO ephemeral_users SELECT user_id FROM users WHERE user_name = %s"
_UNMARK = "DELETE FROM ephemeral_users AS e USING users AS u WHERE e.user_id = u.user_id AND u.user_name = %s"

_Answer = tuple[SpoolEntry | None, int]


def pool_size(workers: int) -> int:
    """How many connections a node with so many Provider workers has."""
    return max(LEAST_CONNECTIONS, 2 * workers)


class Postgres:
    """One database with its pool, for users and spool together.

    :ivar spool_only: known once it is open, as are the other two.
    :ivar has_marks: the table of ephemeral users is there.
    :ivar has_advance: our function ``spool_advance`` is there.
    """

    log = ModuleLogger("sql")

    def __init__(self, reactor: Any, dsn: str, workers: int = 0) -> None:
        self.spool_only = self.has_marks = self.has_advance = False
        self.spool_get = ""
        self._pool = Pool(reactor, dsn, pool_size(workers))
        self._turn = DeferredLock()
        self._users = 0

    async def open(self) -> None:
        """Connect and look at the metadata; the second call only waits for the first.

        :raises StoreError: no such server or database, or not one of ours.
        """
        await self._turn.acquire()
        try:
            if not self._users:
                await self._open()
            self._users += 1
        finally:
            self._turn.release()

    async def _open(self) -> None:
        await self._pool.open()
        try:
            await self._check()
        except BaseException:
            self._pool.close()
            raise

    async def _check(self) -> None:
        try:
            rows = await self.call("SELECT * FROM metadata_get() AS (schema_version smallint, spool_only boolean)")
        except StoreError as e:
            raise StoreError(f"sql/pgx: metadata_get() failed: {e}; load {SCRIPT} into the database") from e
        if not rows or rows[0][0] is None:
            raise StoreError(f"sql/pgx: database missing metadata table? Load {SCRIPT} into an empty database")
        version, self.spool_only = rows[0]
        if version != 0:
            raise StoreError(f"sql/pgx: invalid schema version: {version}; this program knows 0, as {SCRIPT} makes it")
        ((self.has_advance, has_marks, self.spool_get),) = await self.call(
            "SELECT to_regprocedure('spool_advance(bytea,bigint)') IS NOT NULL, "
            "to_regclass('ephemeral_users') IS NOT NULL, "
            "(SELECT 'SELECT * FROM spool_get(%%s, %%s)' || CASE WHEN p.proallargtypes IS NULL "
            "THEN ' AS (message_body bytea, surb_id bytea, remaining integer)' ELSE '' END "
            "FROM pg_proc AS p WHERE p.oid = to_regprocedure('spool_get(bytea,boolean)'))"
        )
        if not self.spool_get:
            raise StoreError(f"sql/pgx: the database has no function spool_get; load {SCRIPT} into an empty database")
        self.has_marks = has_marks and await self._may("SELECT 1 FROM ephemeral_users, users LIMIT 0")

    async def _may(self, statement: str) -> bool:
        try:
            await self.call(statement)
        except SQLError as e:
            if e.code != _NOT_ALLOWED:
                raise
            return False
        return True

    async def call(self, statement: str, *parameters: Any, repeatable: bool = True) -> list[tuple[Any, ...]]:
        """See Pool."""
        return await self._pool.call(statement, *parameters, repeatable=repeatable)

    def close(self) -> None:
        """Close the pool when the last one who opened it closes it."""
        self._users = max(0, self._users - 1)
        if not self._users:
            self._pool.close()


@implementer(ISpool)
class PostgresSpool:
    """The spool in PostgreSQL.

    :param own_users: the same database holds the users.
    """

    log = ModuleLogger("sql")

    def __init__(self, db: Postgres, own_users: bool) -> None:
        self._db, self._own_users = db, own_users
        self._turns = Turns()

    def open(self) -> Deferred[None]:
        """Connect."""
        return shielded(self._open())

    async def _open(self) -> None:
        await self._db.open()
        if self._own_users or self._db.spool_only:
            if not self._db.spool_only:
                await self._delete_orphans()
            return
        self._db.close()
        raise StoreError(
            "sql/pgx: SpoolDB() called for a database with users, but the users are elsewhere; "
            f"make one with psql -v spoolOnly=true -f {SCRIPT}"
        )

    async def _delete_orphans(self) -> None:
        """The original function leaves such rows, which nobody can read (spec: provider 5.3)."""
        try:
            await self._db.call(
                "WITH gone AS (DELETE FROM spool WHERE user_id IS NULL RETURNING 1) SELECT count(*) FROM gone"
            )
        except SQLError as e:
            self.log.debug("orphaned rows stay: {why}", why=str(e))

    def store_message(self, user: bytes, message: bytes) -> Deferred[None]:
        """Append a plain message."""
        return self._turns.run(user, lambda: self._store(user, None, message))

    def store_surb_reply(self, user: bytes, surb_id: bytes, message: bytes) -> Deferred[None]:
        """Append a SURB reply."""
        return self._turns.run(user, lambda: self._store(user, surb_id, message))

    async def _store(self, user: bytes, surb_id: bytes | None, message: bytes) -> None:
        check_user(user)
        if surb_id is not None:
            check_surb_id(surb_id)
        await self._db.call("SELECT spool_store(%s, %s, %s)", user, surb_id, message, repeatable=False)

    def get(self, user: bytes, advance: bool) -> Deferred[_Answer]:
        """The first entry, and whether more follow."""
        return self._turns.run(user, lambda: self._get(user, advance))

    async def _get(self, user: bytes, advance: bool) -> _Answer:
        if self._db.has_advance and not advance:
            return await self._numbered(user, None)
        rows = await self._db.call(self._db.spool_get, user, advance, repeatable=not advance)
        if not rows or rows[0][0] is None:
            return None, 0
        body, surb_id, remaining = rows[0]
        return SpoolEntry(bytes(body), None if surb_id is None else bytes(surb_id)), min(remaining, 1)

    async def _numbered(self, user: bytes, delete: int | None) -> _Answer:
        rows = await self._db.call(
            "SELECT message_id, message_body, surb_id, remaining FROM spool_advance(%s, %s)", user, delete
        )
        if not rows:
            return None, 0
        number, body, surb_id, remaining = rows[0]
        return SpoolEntry(bytes(body), None if surb_id is None else bytes(surb_id), number), remaining

    def advance(self, user: bytes, entry: SpoolEntry) -> Deferred[_Answer]:
        """Delete *entry*; the entry after it."""
        return self._turns.run(user, lambda: self._advance(user, entry))

    async def _advance(self, user: bytes, entry: SpoolEntry) -> _Answer:
        if self._db.has_advance and entry.number is not None:
            return await self._numbered(user, entry.number)
        head, remaining = await self._get(user, False)
        if head != entry:
            return head, remaining
        return await self._get(user, True)

    def remove(self, user: bytes) -> Deferred[None]:
        """Delete a queue; beside its users the database does that when the user goes."""
        return self._turns.run(user, lambda: self._remove(user))

    async def _remove(self, user: bytes) -> None:
        if self._db.spool_only:
            with contextlib.suppress(NoSuchUserError):
                await self._db.call("SELECT user_delete(%s)", user)

    def vacuum(self, keep: Collection[bytes]) -> Deferred[None]:
        """Delete all other queues; beside its users there are none."""
        return shielded(self._vacuum({user.ljust(MAX_NAME, b"\0") for user in keep}))

    async def _vacuum(self, keep: Collection[bytes]) -> None:
        for user in await self._list_users():
            if user.ljust(MAX_NAME, b"\0") not in keep:
                await self._turns.run(user, lambda user=user: self._remove(user))  # type: ignore[misc]

    def users(self) -> Deferred[list[bytes]]:
        """Users with a queue that may have lost its user: none where the database holds both."""
        return shielded(self._list_users())

    async def _list_users(self) -> list[bytes]:
        if not self._db.spool_only:
            return []
        try:
            return [bytes(row[0]) for row in await self._db.call("SELECT user_name FROM users ORDER BY user_id")]
        except SQLError as e:
            if e.code != _NOT_ALLOWED:
                raise
            self.log.warn("queues of users who are gone stay in the database: its role may not read the table users")
            return []

    def close(self) -> Deferred[None]:
        """Close the connections."""
        self._db.close()
        return shielded(_nothing())


@implementer(IUserDB)
class PostgresUserDB:
    """The users in PostgreSQL.

    :param key_size: bytes of a link key; users with others are taken for missing.
    """

    log = ModuleLogger("sql")

    def __init__(self, db: Postgres, key_size: int) -> None:
        self._db, self._key_size = db, key_size
        self._marks: set[bytes] = set()
        self._warned: set[str] = set()

    def _warn(self, text: str) -> None:
        """Say it once."""
        if text not in self._warned:
            self._warned.add(text)
            self.log.warn(text)

    def open(self) -> Deferred[None]:
        """Connect."""
        return shielded(self._open())

    async def _open(self) -> None:
        await self._db.open()
        if self._db.spool_only:
            self._db.close()
            raise StoreError("sql/pgx: UserDB() called for spool only database")
        if not self._db.has_marks:
            self._warn(
                "the database has no table ephemeral_users: ephemeral users of earlier runs are not collected; "
                f"see {SCRIPT}"
            )

    def exists(self, user: bytes) -> Deferred[bool]:
        """Whether the user is there."""
        return shielded(self._exists(user))

    async def _exists(self, user: bytes) -> bool:
        try:
            await self._link(user)
        except NoSuchUserError:
            return False
        return True

    def is_valid(self, user: bytes, link_key: bytes) -> Deferred[bool]:
        """Whether the user has this key."""
        return shielded(self._is_valid(user, link_key))

    async def _is_valid(self, user: bytes, link_key: bytes) -> bool:
        try:
            return hmac.compare_digest(await self._link(user), link_key)
        except NoSuchUserError:
            return False

    def link(self, user: bytes) -> Deferred[bytes]:
        """The link key."""
        return shielded(self._link(user))

    async def _link(self, user: bytes) -> bytes:
        rows = await self._db.call("SELECT user_get_authentication_key(%s)", user)
        if not rows or rows[0][0] is None:
            raise NoSuchUserError("no such user")
        key = bytes(rows[0][0])
        if len(key) != self._key_size:
            self._warn(f"a user has a link key that has not the {self._key_size} bytes of WireKEM: not let in")
            raise NoSuchUserError("no such user")
        return key

    def add(self, user: bytes, link_key: bytes, update: bool = False, ephemeral: bool = False) -> Deferred[None]:
        """Create or update; the mark goes into the same transaction."""
        return shielded(self._add(user, link_key, update, ephemeral))

    async def _add(self, user: bytes, link_key: bytes, update: bool, ephemeral: bool) -> None:
        check_user(user)
        check_key(link_key)
        marks: list[str] = []
        if self._db.has_marks and (update or ephemeral):
            marks = [_UNMARK, *([_MARK] if ephemeral else ()), "SELECT 1"]
        users = (user,) * max(0, len(marks) - 1)
        try:
            statement = "; ".join(["SELECT user_set_authentication_key(%s, %s, %s)", *marks])
            await self._db.call(statement, user, link_key, update, *users, repeatable=update)
        except SQLError as e:
            if e.code != _AMBIGUOUS_COLUMN or not update:
                raise
            await self._update_around_the_flaw(user, link_key)
            if marks:
                await self._db.call("; ".join(marks), *users)
        if not self._db.has_marks:
            (self._marks.add if ephemeral else self._marks.discard)(user)

    async def _update_around_the_flaw(self, user: bytes, link_key: bytes) -> None:
        """The function of the original script can not update (spec: provider 5.3)."""
        self._warn(f"the database's function user_set_authentication_key is faulty: replace it by that of {SCRIPT}")
        rows = await self._db.call(
            "WITH found AS (UPDATE users SET authentication_key = %s WHERE users.user_name = %s RETURNING 1) "
            "SELECT count(*) FROM found",
            link_key,
            user,
        )
        if not rows[0][0]:
            raise NoSuchUserError("no such user")

    def set_identity(self, user: bytes, key: bytes | None) -> Deferred[None]:
        """Set or remove the identity key."""
        return shielded(self._run("SELECT user_set_identity_key(%s, %s)", user, key))

    def identity(self, user: bytes) -> Deferred[bytes]:
        """The identity key."""
        return shielded(self._identity(user))

    async def _identity(self, user: bytes) -> bytes:
        rows = await self._db.call("SELECT user_get_identity_key(%s)", user)
        if not rows or rows[0][0] is None:
            raise NoIdentityError("no identity")
        return bytes(rows[0][0])

    def remove(self, user: bytes) -> Deferred[None]:
        """Delete the user, and what waits."""
        self._marks.discard(user)
        return shielded(self._run("SELECT user_delete(%s)", user, repeatable=False))

    async def _run(self, statement: str, *parameters: Any, repeatable: bool = True) -> None:
        await self._db.call(statement, *parameters, repeatable=repeatable)

    def ephemeral_users(self) -> Deferred[list[bytes]]:
        """Users let in without being known."""
        return shielded(self._ephemeral_users())

    async def _ephemeral_users(self) -> list[bytes]:
        if not self._db.has_marks:
            return list(self._marks)
        rows = await self._db.call("SELECT u.user_name FROM users AS u JOIN ephemeral_users AS e USING (user_id)")
        return [bytes(row[0]) for row in rows]

    def users(self) -> Deferred[list[bytes]]:
        """All users."""
        return shielded(self._list())

    async def _list(self) -> list[bytes]:
        return [bytes(row[0]) for row in await self._db.call("SELECT user_name FROM users ORDER BY user_id")]

    def close(self) -> Deferred[None]:
        """Close the connections."""
        self._db.close()
        return shielded(_nothing())


async def _nothing() -> None:
    """Nothing is left to wait for."""
