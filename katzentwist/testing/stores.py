"""Databases in memory, that answer late or fail when a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from zope.interface import implementer

from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError, UserExistsError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry


class _Answers:
    """How a database answers: at once, not before :meth:`release`, or with a failure.

    :ivar failing: every operation fails.
    :ivar slow: operations wait for release.
    :ivar calls: how many there were.
    """

    def __init__(self) -> None:
        self.failing = self.slow = False
        self.calls = 0
        self._waiting: list[Callable[[], object]] = []

    def _do(self, work: Callable[[], Any]) -> Deferred[Any]:
        self.calls += 1
        if not self.slow:
            return self._now(work)
        done: Deferred[Any] = Deferred()
        self._waiting.append(lambda: self._now(work).addCallbacks(done.callback, done.errback))
        return done

    def _now(self, work: Callable[[], Any]) -> Deferred[Any]:
        if self.failing:
            return fail(StoreError("the disk is on fire"))
        try:
            return succeed(work())
        except StoreError as e:
            return fail(e)

    def release(self) -> None:
        """Do what waits, in order."""
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each()

    def open(self) -> Deferred[None]:
        """Nothing."""
        return succeed(None)

    def close(self) -> Deferred[None]:
        """Nothing."""
        return succeed(None)


@implementer(ISpool)
class MemorySpool(_Answers):
    """A spool.

    :ivar queues: what waits, by user.
    """

    def __init__(self) -> None:
        super().__init__()
        self.queues: dict[bytes, list[SpoolEntry]] = {}
        self._numbers = 0

    def _store(self, user: bytes, surb_id: bytes | None, message: bytes) -> Deferred[None]:
        def work() -> None:
            self._numbers += 1
            self.queues.setdefault(user, []).append(SpoolEntry(message, surb_id, self._numbers))

        return self._do(work)

    def store_message(self, user: bytes, message: bytes) -> Deferred[None]:
        """See ISpool."""
        return self._store(user, None, message)

    def store_surb_reply(self, user: bytes, surb_id: bytes, message: bytes) -> Deferred[None]:
        """See ISpool."""
        return self._store(user, surb_id, message)

    def _first(self, user: bytes) -> tuple[SpoolEntry | None, int]:
        queue = self.queues.get(user, [])
        return (queue[0], int(len(queue) > 1)) if queue else (None, 0)

    def get(self, user: bytes, advance: bool) -> Deferred[tuple[SpoolEntry | None, int]]:
        """See ISpool."""

        def work() -> tuple[SpoolEntry | None, int]:
            if advance:
                del self.queues.get(user, [])[:1]
            return self._first(user)

        return self._do(work)

    def advance(self, user: bytes, entry: SpoolEntry) -> Deferred[tuple[SpoolEntry | None, int]]:
        """See ISpool."""

        def work() -> tuple[SpoolEntry | None, int]:
            queue = self.queues.get(user, [])
            if queue and queue[0].number == entry.number:
                del queue[0]
            return self._first(user)

        return self._do(work)

    def remove(self, user: bytes) -> Deferred[None]:
        """See ISpool."""
        return self._do(lambda: self.queues.pop(user, None) and None)

    def vacuum(self, keep: Collection[bytes]) -> Deferred[None]:
        """See ISpool."""

        def work() -> None:
            self.queues = {user: queue for user, queue in self.queues.items() if user in keep}

        return self._do(work)

    def users(self) -> Deferred[list[bytes]]:
        """See ISpool."""
        return self._do(lambda: list(self.queues))


@implementer(IUserDB)
class MemoryUsers(_Answers):
    """A user database.

    :ivar keys: link key by user.
    :ivar marks: the ephemeral ones.
    """

    def __init__(self) -> None:
        super().__init__()
        self.keys: dict[bytes, bytes] = {}
        self.identities: dict[bytes, bytes] = {}
        self.marks: set[bytes] = set()

    def _need(self, user: bytes) -> bytes:
        if user not in self.keys:
            raise NoSuchUserError("no such user")
        return self.keys[user]

    def exists(self, user: bytes) -> Deferred[bool]:
        """See IUserDB."""
        return self._do(lambda: user in self.keys)

    def is_valid(self, user: bytes, link_key: bytes) -> Deferred[bool]:
        """See IUserDB."""
        return self._do(lambda: self.keys.get(user) == link_key)

    def add(self, user: bytes, link_key: bytes, update: bool = False, ephemeral: bool = False) -> Deferred[None]:
        """See IUserDB."""

        def work() -> None:
            if update:
                self._need(user)
            elif user in self.keys:
                raise UserExistsError("user already exists")
            self.keys[user] = link_key
            (self.marks.add if ephemeral else self.marks.discard)(user)

        return self._do(work)

    def link(self, user: bytes) -> Deferred[bytes]:
        """See IUserDB."""
        return self._do(lambda: self._need(user))

    def set_identity(self, user: bytes, key: bytes | None) -> Deferred[None]:
        """See IUserDB."""

        def work() -> None:
            self._need(user)
            if key is None:
                self.identities.pop(user, None)
            else:
                self.identities[user] = key

        return self._do(work)

    def identity(self, user: bytes) -> Deferred[bytes]:
        """See IUserDB."""

        def work() -> bytes:
            self._need(user)
            if user not in self.identities:
                raise NoIdentityError("no identity")
            return self.identities[user]

        return self._do(work)

    def remove(self, user: bytes) -> Deferred[None]:
        """See IUserDB."""

        def work() -> None:
            self._need(user)
            del self.keys[user]
            self.identities.pop(user, None)
            self.marks.discard(user)

        return self._do(work)

    def ephemeral_users(self) -> Deferred[list[bytes]]:
        """See IUserDB."""
        return self._do(lambda: list(self.marks))

    def users(self) -> Deferred[list[bytes]]:
        """See IUserDB."""
        return self._do(lambda: list(self.keys))
