"""Users and what waits for them: the rules above the two databases (spec: provider 2.4, 2.5 and 4)."""

from __future__ import annotations

from collections.abc import Callable, Collection, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from katzentwist.config.names import MAX_NAME, UserNames
from katzentwist.config.node import UserPolicy
from katzentwist.errors import NoSuchUserError, SpoolFullError, StoreError, UserExistsError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry
from katzentwist.logger import ModuleLogger
from katzentwist.mix.drops import DropReason
from katzentwist.provider.outage import REMIND, Outage
from katzentwist.store.turns import Turns

Store = Callable[[bytes], Deferred[None]]


class Mailbox:
    """The spool of a gateway or Provider, with its users.

    :param users: None at a gateway of v0.0.99, where whoever knows a queue id owns the queue.
    :param policy: None together with *users*.
    :param seconds: monotonic time.
    :param patience: seconds that a packet may wait until it is its turn to be stored (spec: ``ProviderDelay``).
    :param elsewhere: the users are those of a service that may be away: then nothing is deleted at the start.
    :ivar stored: called with the user when something new waits.
    """

    log = ModuleLogger("gateway")

    def __init__(
        self,
        spool: ISpool,
        users: IUserDB | None,
        policy: UserPolicy | None,
        *,
        seconds: Callable[[], float],
        patience: float,
        elsewhere: bool = False,
    ) -> None:
        self.spool, self.users, self.policy = spool, users, policy
        self.stored: Callable[[bytes], None] = lambda user: None
        self._names = UserNames() if policy is None else policy.names
        self._seconds, self._patience, self._elsewhere = seconds, patience, elsewhere
        self._turns = Turns()
        self._idle_last_time: set[bytes] = set()
        self._user_outage = Outage("user database", seconds)
        self._spool_outage = Outage("spool", seconds)
        self._warned: float | None = None

    async def open(self) -> None:
        """Open the databases and delete queues of users who are gone.

        :raises StoreError: a database can not be opened.
        """
        if self.users is not None:
            await self.users.open()
        await self.spool.open()
        await self.vacuum_orphans()

    async def vacuum_orphans(self) -> None:
        """Delete queues without a user (spec: provider 4.4).

        :raises StoreError: a database failed, unless the users are *elsewhere*: then what is not clear stays.
        """
        if self.users is None:
            return
        for user in await self.spool.users():
            try:
                known = await self.users.exists(user)
            except StoreError as e:
                if not self._elsewhere:
                    raise
                self.log.warn("queues of users who may be gone are kept: {why}", why=str(e))
                return
            if not known:
                await self.spool.remove(user)

    async def close(self) -> None:
        """Close the databases."""
        await self.spool.close()
        if self.users is not None:
            await self.users.close()

    def name(self, additional_data: bytes) -> bytes | None:
        """The name of the queue that belongs to a client; None if there is none.

        Without users names are the bytes themselves, recipient ids without their padding (spec: link 10.3).
        """
        if self.users is not None:
            return self._names.canonical(additional_data)
        return additional_data[:MAX_NAME].rstrip(b"\0") or None

    def _addressee(self, recipient: bytes) -> bytes | None:
        """The name of the queue that a recipient id means."""
        return self.name(recipient) if self.users is None else self._names.of_recipient(recipient)

    # Who is let in -------------------------------------------------------------------------------------------------

    async def admit(self, additional_data: bytes, link_key: bytes) -> bool:
        """At the handshake (spec: provider 2.4, the table); without users everybody is let in (spec: link 10.3).

        :raises StoreError: the database failed; the client is to be refused.
        """
        if self.users is None or self.policy is None:
            return True
        user = self.name(additional_data)
        if user is None:
            return False
        try:
            admitted = await self._admit(self.users, self.policy, user, link_key)
        except StoreError as e:
            self._user_outage.failed(e)
            raise
        self._user_outage.worked()
        return admitted

    async def _admit(self, users: IUserDB, policy: UserPolicy, user: bytes, link_key: bytes) -> bool:
        if await users.exists(user):
            return await self._has_key(users, user, link_key)
        if not (policy.ephemeral or policy.trust_on_first_use):
            return False
        try:
            await users.add(user, link_key, ephemeral=policy.ephemeral)
        except UserExistsError:  # another connection was faster
            return await self._has_key(users, user, link_key)
        return True

    async def _has_key(self, users: IUserDB, user: bytes, link_key: bytes) -> bool:
        valid = await users.is_valid(user, link_key)
        if not valid:
            self.log.warn("a client was refused: it shows another link key than the user whose name it gives")
        return valid

    async def still_valid(self, additional_data: bytes, link_key: bytes) -> bool:
        """At a re-check: a removed user is not made anew, and a database that is away disconnects nobody."""
        if self.users is None:
            return True
        user = self.name(additional_data)
        if user is None:
            return False
        try:
            valid = await self.users.is_valid(user, link_key)
        except StoreError as e:
            self._user_outage.failed(e)
            return True
        self._user_outage.worked()
        return valid

    # What waits ----------------------------------------------------------------------------------------------------

    async def store_surb_reply(self, recipient: bytes, surb_id: bytes, payload: bytes) -> DropReason | None:
        """Keep a SURB reply; why it was dropped, or None."""
        return await self._store(recipient, lambda user: self.spool.store_surb_reply(user, surb_id, payload))

    async def store_message(self, recipient: bytes, payload: bytes) -> DropReason | None:
        """Keep a plain message; why it was dropped, or None."""
        return await self._store(recipient, lambda user: self.spool.store_message(user, payload))

    async def _store(self, recipient: bytes, store: Store) -> DropReason | None:
        user = self._addressee(recipient)
        if user is None:
            return DropReason.GATEWAY_INVALID_RECIPIENT
        asked = self._seconds()

        async def in_turn() -> DropReason | None:
            if self._seconds() - asked > self._patience:
                return DropReason.GATEWAY_DWELL_EXCEEDED
            return await self._known_and_stored(user, store)

        reason = await self._turns.run(user, in_turn)
        if reason is None:
            self.stored(user)
        return reason

    async def _known_and_stored(self, user: bytes, store: Store) -> DropReason | None:
        if self.users is not None:
            try:
                known = await self.users.exists(user)
            except StoreError as e:
                self._user_outage.failed(e)
                return DropReason.GATEWAY_STORE_FAILED
            self._user_outage.worked()
            if not known:
                return DropReason.GATEWAY_INVALID_RECIPIENT
        try:
            await store(user)
        except NoSuchUserError:  # removed just now
            return DropReason.GATEWAY_INVALID_RECIPIENT
        except SpoolFullError as e:
            self._full(e)
            return DropReason.GATEWAY_STORE_FAILED
        except StoreError as e:
            self._spool_outage.failed(e)
            return DropReason.GATEWAY_STORE_FAILED
        self._spool_outage.worked()
        return None

    def _full(self, why: SpoolFullError) -> None:
        """Say so, and not again for a while."""
        now = self._seconds()
        if self._warned is None or now - self._warned >= REMIND:
            self._warned = now
            self.log.warn("messages are dropped: {why}", why=str(why))

    async def first(self, user: bytes) -> tuple[SpoolEntry | None, int]:
        """The entry to push next, and 1 if more follow.

        :raises StoreError: the database failed.
        """
        return await self._spooled(self.spool.get(user, False))

    async def acknowledged(self, user: bytes, entry: SpoolEntry) -> tuple[SpoolEntry | None, int]:
        """Delete the entry that the client has; the one to push next. To be asked again until it succeeds.

        :raises StoreError: the database failed, and it is not known whether the entry is gone.
        """
        return await self._spooled(self.spool.advance(user, entry))

    async def _spooled(
        self, asked: Coroutine[Any, Any, tuple[SpoolEntry | None, int]] | Deferred[tuple[SpoolEntry | None, int]]
    ) -> tuple[SpoolEntry | None, int]:
        try:
            result = await asked
        except StoreError as e:
            self._spool_outage.failed(e)
            raise
        self._spool_outage.worked()
        return result

    # Garbage -------------------------------------------------------------------------------------------------------

    async def collect(self, connected: Collection[bytes]) -> None:
        """Once per epoch: forget those who are gone (spec: provider 2.5, node 6.3).

        :param connected: names of the users with an established session; looked at again before each removal.
        """
        if self.users is None:
            try:
                await self.spool.vacuum(set(connected))
            except StoreError as e:
                self._spool_outage.failed(e)
        elif self.policy is not None and self.policy.ephemeral:
            await self._collect_users(self.users, connected)

    async def _collect_users(self, users: IUserDB, connected: Collection[bytes]) -> None:
        try:
            idle = set(await users.ephemeral_users()).difference(connected)
            collected = 0
            for user in idle & self._idle_last_time:
                if user not in connected:
                    collected += await self._forget(users, user)
        except StoreError as e:
            self._user_outage.failed(e)
            return
        self._idle_last_time = idle
        self.log.debug("{count} ephemeral users were collected", count=collected)

    async def _forget(self, users: IUserDB, user: bytes) -> bool:
        try:
            await users.remove(user)
        except NoSuchUserError:
            return False
        await self.spool.remove(user)
        return True
