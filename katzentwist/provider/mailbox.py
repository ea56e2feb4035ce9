"""Users and what waits for them: the rules above the two databases (spec: provider 2.4, 2.5 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from katzentwist.config.names import canonical_user
from katzentwist.config.node import UserPolicy
from katzentwist.errors import StoreError, UserExistsError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason


class Mailbox:
    """The spool of a gateway or Provider, with its users.

    :param users: None at a gateway of v0.0.99, where whoever knows a queue id owns the queue.
    :param policy: None together with *users*.
    :ivar stored: called with the user when something new waits.
    """

    log = ModuleLogger("gateway")

    def __init__(self, spool: ISpool, users: IUserDB | None, policy: UserPolicy | None) -> None:
        self.spool, self.users, self.policy = spool, users, policy
        self.stored: Callable[[bytes], None] = lambda user: None
        self._idle_last_time: set[bytes] = set()
        self._failures = 0

    async def open(self) -> None:
        """Open the databases and delete queues of users who are gone.

        :raises StoreError: a database can not be opened.
        """
        if self.users is not None:
            await self.users.open()
        await self.spool.open()
        if self.users is not None:
            await self.vacuum_orphans()

    async def vacuum_orphans(self) -> None:
        """Delete queues without a user (spec: provider 4.4)."""
        if self.users is None:
            return
        gone = [u for u in await self.spool.users() if not await self.users.exists(u)]
        for user in gone:
            await self.spool.remove(user)

    async def close(self) -> None:
        """Close the databases."""
        await self.spool.close()
        if self.users is not None:
            await self.users.close()

    def name(self, raw: bytes) -> bytes | None:
        """The queue's name for additional data or a recipient id; None if there is none.

        Without users names are the bytes themselves, recipient ids without their padding.
        """
        if self.users is not None:
            return canonical_user(raw)
        stripped = raw.rstrip(b"\0")
        return stripped if 1 <= len(stripped) <= 32 else None

    # Who is let in -------------------------------------------------------------------------------------------------

    async def admit(self, additional_data: bytes, link_key: bytes) -> bool:
        """At the handshake (spec: provider 2.4, the table).

        :raises StoreError: the database failed; the client is to be refused.
        """
        if self.users is None or self.policy is None:
            return True
        user = canonical_user(additional_data)
        if user is None:
            return False
        if await self.users.exists(user):
            valid = await self.users.is_valid(user, link_key)
            if not valid:
                self.log.warn("a client was refused: wrong key for a known user")
            return valid
        if not (self.policy.ephemeral or self.policy.trust_on_first_use):
            return False
        try:
            await self.users.add(user, link_key, ephemeral=self.policy.ephemeral)
        except UserExistsError:  # another connection was faster
            return await self.users.is_valid(user, link_key)
        return True

    async def still_valid(self, additional_data: bytes, link_key: bytes) -> bool:
        """At a re-check: a removed user is not made anew, and a database that is away disconnects nobody."""
        if self.users is None:
            return True
        user = canonical_user(additional_data)
        if user is None:
            return False
        try:
            return await self.users.is_valid(user, link_key)
        except StoreError as e:
            self.note_failure(e)
            return True

    # What waits ----------------------------------------------------------------------------------------------------

    async def store_surb_reply(self, recipient: bytes, surb_id: bytes, payload: bytes) -> DropReason | None:
        """Keep a SURB reply; why it was dropped, or None."""
        return await self._store(recipient, lambda user: self.spool.store_surb_reply(user, surb_id, payload))

    async def store_message(self, recipient: bytes, payload: bytes) -> DropReason | None:
        """Keep a plain message; why it was dropped, or None."""
        return await self._store(recipient, lambda user: self.spool.store_message(user, payload))

    async def _store(self, recipient: bytes, store: Callable[[bytes], object]) -> DropReason | None:
        user = self.name(recipient)
        if user is None:
            return DropReason.GATEWAY_INVALID_RECIPIENT
        try:
            if self.users is not None and not await self.users.exists(user):
                return DropReason.GATEWAY_INVALID_RECIPIENT
            await store(user)  # type: ignore[misc]
        except StoreError as e:
            self.note_failure(e)
            return DropReason.GATEWAY_STORE_FAILED
        self._recovered()
        self.stored(user)
        return None

    async def first(self, user: bytes, advance: bool) -> tuple[SpoolEntry | None, int]:
        """The entry to push next; with *advance*, delete the one that was acknowledged.

        :raises StoreError: the database failed; nothing was deleted.
        """
        result = await self.spool.get(user, advance)
        self._recovered()
        return result

    def note_failure(self, error: StoreError) -> None:
        """Log the first failure; the others are counted until it works again."""
        self._failures += 1
        if self._failures == 1:
            self.log.error("a database failed, the work goes on without it: {why}", why=str(error))

    def _recovered(self) -> None:
        if self._failures:
            self.log.warn("the database works again after {count} failures", count=self._failures)
            self._failures = 0

    # Garbage -------------------------------------------------------------------------------------------------------

    async def collect(self, connected: Iterable[bytes]) -> None:
        """Once per epoch: forget those who are gone (spec: provider 2.5, node 6.3).

        :param connected: names of the users with an established session.
        """
        present = set(connected)
        try:
            if self.users is None:
                await self.spool.vacuum(present)
            elif self.policy is not None and self.policy.ephemeral:
                idle = set(await self.users.ephemeral_users()) - present
                for user in idle & self._idle_last_time:
                    await self.users.remove(user)
                    await self.spool.remove(user)
                    self.log.debug("an ephemeral user was collected")
                self._idle_last_time = idle
        except StoreError as e:
            self.note_failure(e)
