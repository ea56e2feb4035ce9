"""The databases in memory that other tests use do what the real ones do."""

from __future__ import annotations

from twisted.trial.unittest import TestCase

from katzentwist.errors import StoreError
from katzentwist.store.checks import check_key, check_surb_id, check_user
from katzentwist.testing.stores import MemorySpool, MemoryUsers

from .conformance import SpoolConformance, UserConformance


class Spool(MemorySpool):
    """With the checks of the real ones."""

    def _store(self, user, surb_id, message):
        def check() -> None:
            check_user(user)
            if surb_id is not None:
                check_surb_id(surb_id)

        return self._do(check).addCallback(lambda _: super(Spool, self)._store(user, surb_id, message))


class Users(MemoryUsers):
    """With the checks of the real ones."""

    def add(self, user, link_key, update=False, ephemeral=False):
        def check() -> None:
            check_user(user)
            check_key(link_key)

        return self._do(check).addCallback(lambda _: super(Users, self).add(user, link_key, update, ephemeral))


class MemorySpoolTests(SpoolConformance, TestCase):
    """The spool."""

    async def make(self):
        return Spool()

    async def test_failing(self) -> None:
        """On demand."""
        spool = await self.make()
        spool.failing = True
        with self.assertRaises(StoreError):
            await spool.get(b"alice", False)

    async def vacuum(self, spool, keep) -> None:
        short = {user for user in spool.queues if user.ljust(32, b"\0") in {k.ljust(32, b"\0") for k in keep}}
        await spool.vacuum(short)


class MemoryUserTests(UserConformance, TestCase):
    """The users."""

    async def make(self):
        return Users()
