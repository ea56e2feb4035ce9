"""What every back end must do: one suite for users, one for the spool. Subclasses say how a database is made."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet import reactor
from twisted.internet.defer import DeferredList
from twisted.internet.threads import blockingCallFromThread, deferToThread
from zope.interface.verify import verifyObject

from katzentwist.errors import NoIdentityError, NoSuchUserError, StoreError, UserExistsError
from katzentwist.interfaces import ISpool, IUserDB, SpoolEntry

from ..vectorfiles import load, unhex

KEY, OTHER = b"k" * 32, b"o" * 32
BINARY = bytes(range(0, 256, 8))
"""32 bytes with a zero byte in front and bytes that are no UTF-8."""
NAMES = (b"alice", b"bob", BINARY, b"\xff\x00\xfe", b"%s'\"\\;--")
SURB = bytes(range(16))


async def fails(test: Any, error: type[StoreError], work: Any) -> StoreError:
    """Await something that must fail with exactly this error."""
    try:
        await work
    except StoreError as e:
        test.assertIs(type(e) if error is not StoreError else StoreError, error)
        return e
    raise AssertionError(f"no {error.__name__}")


class SpoolConformance:
    """A subclass of this and of TestCase has :meth:`make`."""

    examples = 15
    cascade = False
    """Whether removing the queue of a user is the business of the user database."""

    async def make(self) -> ISpool:
        """An open, empty spool."""
        raise NotImplementedError

    async def know(self, spool: ISpool, user: bytes) -> None:
        """Make a user, where a queue needs one."""

    async def forget(self, spool: ISpool, user: bytes) -> None:
        """Remove a user with its queue."""
        await spool.remove(user)

    async def known(self, *users: bytes) -> Any:
        spool = await self.make()
        for user in users:
            await self.know(spool, user)
        return spool

    async def test_interface(self) -> None:
        """It is an ISpool."""
        verifyObject(ISpool, await self.make())

    async def test_order_across_kinds_and_users(self) -> None:
        """First in, first out, per user, messages and SURB replies in one queue."""
        spool = await self.known(*NAMES)
        for number in range(4):
            for user in NAMES:
                text = user + bytes([number])
                if number % 2:
                    await spool.store_message(user, text)
                else:
                    await spool.store_surb_reply(user, SURB, text)
        for user in NAMES:
            advance = False
            for number in range(4):
                entry, remaining = await spool.get(user, advance)
                expected = SpoolEntry(user + bytes([number]), None if number % 2 else SURB)
                self.assertEqual((entry, remaining), (expected, int(number < 3)))
                self.assertEqual(await spool.get(user, False), (entry, remaining))
                advance = True
            self.assertEqual(await spool.get(user, True), (None, 0))
            self.assertEqual(await spool.get(user, True), (None, 0))

    async def test_many_at_once_keep_their_order(self) -> None:
        """Entries that are stored without waiting for each other come out as they went in."""
        spool = await self.known(b"alice")
        await DeferredList([spool.store_message(b"alice", bytes([n])) for n in range(100)], fireOnOneErrback=True)
        entry, _ = await spool.get(b"alice", False)
        for number in range(100):
            self.assertEqual(entry.message, bytes([number]))
            entry, _ = await spool.advance(b"alice", entry)
        self.assertIsNone(entry)

    async def test_advance_names_its_entry(self) -> None:
        """Only the named entry is deleted, however often that is asked; equal messages are two entries."""
        spool = await self.known(b"alice", b"bob")
        await spool.store_surb_reply(b"alice", SURB, b"one")
        await spool.store_surb_reply(b"alice", SURB[::-1], b"two")
        await spool.store_surb_reply(b"bob", SURB, b"one")
        first, _ = await spool.get(b"alice", False)
        second = (SpoolEntry(b"two", SURB[::-1]), 0)
        self.assertEqual(await spool.advance(b"alice", first), second)
        self.assertEqual(await spool.advance(b"alice", first), second)
        self.assertEqual(await spool.get(b"bob", False), (SpoolEntry(b"one", SURB), 0))
        entry, _ = await spool.get(b"alice", False)
        self.assertEqual(await spool.advance(b"alice", entry), (None, 0))
        self.assertEqual(await spool.advance(b"alice", entry), (None, 0))

    async def test_numbers_are_used_once(self) -> None:
        """What came after the named entry, into an empty queue even, is not deleted in its place."""
        spool = await self.known(b"alice")
        await spool.store_message(b"alice", b"old")
        entry, _ = await spool.get(b"alice", False)
        self.assertEqual(await spool.advance(b"alice", entry), (None, 0))
        await spool.store_message(b"alice", b"new")
        left, remaining = await spool.advance(b"alice", entry)
        self.assertEqual((left, remaining), (SpoolEntry(b"new", None), 0))

    async def test_equal_messages_are_two_entries(self) -> None:
        """Both are delivered."""
        spool = await self.known(b"alice")
        for _ in range(2):
            await spool.store_message(b"alice", b"same")
        first, remaining = await spool.get(b"alice", False)
        self.assertEqual(remaining, 1)
        second, remaining = await spool.advance(b"alice", first)
        self.assertEqual((second, remaining), (SpoolEntry(b"same", None), 0))

    async def test_big_entries_and_empty_ones(self) -> None:
        """Sizes are the caller's business."""
        spool = await self.known(b"alice")
        for body in (b"", bytes(range(256)) * 400):
            await spool.store_message(b"alice", body)
            self.assertEqual((await spool.get(b"alice", False))[0].message, body)
            await spool.get(b"alice", True)

    async def test_bad_names_and_ids(self) -> None:
        """1 to 32 bytes, and 16."""
        spool = await self.known(b"alice")
        for user in (b"", bytes(33)):
            await fails(self, StoreError, spool.store_message(user, b"x"))
            await fails(self, StoreError, spool.store_surb_reply(user, SURB, b"x"))
        for surb_id in (b"", bytes(15), bytes(17)):
            await fails(self, StoreError, spool.store_surb_reply(b"alice", surb_id, b"x"))
        self.assertEqual(await spool.get(b"alice", False), (None, 0))

    async def test_unknown_users(self) -> None:
        """Have nothing, and removing them is fine."""
        spool = await self.make()
        self.assertEqual(await spool.get(b"nobody", False), (None, 0))
        self.assertEqual(await spool.get(b"nobody", True), (None, 0))
        await spool.remove(b"nobody")

    async def test_vectors(self) -> None:
        """The operations of node.json, one after the other."""
        operations = load("node")["spool"]
        self.assertGreater(len(operations), 100)
        spool = await self.known(*dict.fromkeys(unhex(o["user"]) for o in operations if o.get("user") and o["ok"]))
        for number, operation in enumerate(operations):
            await self._operation(spool, operation, number)

    async def _operation(self, spool: Any, operation: dict[str, Any], number: int) -> None:
        user, message = unhex(operation.get("user")), unhex(operation.get("msg"))
        match operation["op"]:
            case "store_message":
                work = spool.store_message(user, message)
            case "store_surb_reply":
                work = spool.store_surb_reply(user, unhex(operation["id"]), message)
            case "get" | "get_advance":
                entry, remaining = await spool.get(user, operation["op"] == "get_advance")
                expected = (
                    None
                    if operation["msg"] is None
                    else SpoolEntry(message, None if operation["id"] is None else unhex(operation["id"]))
                )
                self.assertEqual((entry, remaining), (expected, operation["remaining"]), f"operation {number}")
                return
            case "remove":
                await self.forget(spool, user)
                return
            case "vacuum":
                await self.vacuum(spool, {unhex(u) for u in operation["keep"] or ()})
                return
            case unknown:
                raise AssertionError(unknown)
        if operation["ok"]:
            await work
        else:
            await fails(self, StoreError, work)

    async def vacuum(self, spool: ISpool, keep: set[bytes]) -> None:
        """Delete other queues."""
        await spool.vacuum(keep)

    async def test_model(self) -> None:
        """Any sequence of operations gives what a dict of lists would."""
        users = NAMES[:3]
        spool = await self.known(*users)

        async def forget(user: bytes) -> None:
            await self.forget(spool, user)

        await deferToThread(run_model, SpoolMachine, self.examples, spool, users, forget)


def run_model(machine: type[RuleBasedStateMachine], examples: int, *arguments: Any) -> None:
    """Run a state machine; in a thread, since the databases need the reactor."""
    run_state_machine_as_test(
        lambda: machine(*arguments),
        settings=settings(
            max_examples=examples,
            stateful_step_count=25,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def wait(function: Any, *arguments: Any) -> Any:
    """The result of a Deferred."""
    return blockingCallFromThread(reactor, function, *arguments)


def wait_for(function: Any, *arguments: Any) -> Any:
    """The result of a coroutine function."""
    from twisted.internet.defer import Deferred

    return blockingCallFromThread(reactor, lambda: Deferred.fromCoroutine(function(*arguments)))


class SpoolMachine(RuleBasedStateMachine):
    """A spool beside a model of it."""

    def __init__(self, spool: Any, users: tuple[bytes, ...], forget: Any) -> None:
        super().__init__()
        self._spool, self._users, self._forget = spool, users, forget
        self._model: dict[bytes, list[SpoolEntry]] = {}
        self._seen: dict[bytes, SpoolEntry] = {}

    @initialize()
    def empty(self) -> None:
        for user in self._users:
            wait_for(self._forget, user)

    def _expected(self, user: bytes) -> tuple[SpoolEntry | None, int]:
        queue = self._model.get(user, [])
        return (queue[0] if queue else None, int(len(queue) > 1))

    @rule(user=st.integers(0, 2), message=st.binary(max_size=20))
    def store_message(self, user: int, message: bytes) -> None:
        name = self._users[user]
        wait(self._spool.store_message, name, message)
        self._model.setdefault(name, []).append(SpoolEntry(message, None))

    @rule(user=st.integers(0, 2), message=st.binary(max_size=20), surb=st.binary(min_size=16, max_size=16))
    def store_reply(self, user: int, message: bytes, surb: bytes) -> None:
        name = self._users[user]
        wait(self._spool.store_surb_reply, name, surb, message)
        self._model.setdefault(name, []).append(SpoolEntry(message, surb))

    @rule(user=st.integers(0, 2))
    def get(self, user: int) -> None:
        name = self._users[user]
        entry, remaining = wait(self._spool.get, name, False)
        assert (entry, remaining) == self._expected(name)
        if entry is not None:
            self._seen[name] = entry

    @rule(user=st.integers(0, 2))
    def get_advance(self, user: int) -> None:
        name = self._users[user]
        self._model[name] = self._model.get(name, [])[1:]
        self._seen.pop(name, None)
        assert wait(self._spool.get, name, True) == self._expected(name)

    @rule(user=st.integers(0, 2))
    def advance(self, user: int) -> None:
        name = self._users[user]
        if name in self._seen:
            entry = self._seen.pop(name)
            self._model[name] = self._model[name][1:]
            assert wait(self._spool.advance, name, entry) == self._expected(name)

    @rule(user=st.integers(0, 2))
    def forget(self, user: int) -> None:
        name = self._users[user]
        wait_for(self._forget, name)
        self._model.pop(name, None)
        self._seen.pop(name, None)

    @invariant()
    def heads(self) -> None:
        for user in self._users:
            assert wait(self._spool.get, user, False) == self._expected(user)


class UserConformance:
    """A subclass of this and of TestCase has :meth:`make`."""

    examples = 15

    async def make(self) -> IUserDB:
        """An open, empty user database."""
        raise NotImplementedError

    async def test_interface(self) -> None:
        """It is an IUserDB."""
        verifyObject(IUserDB, await self.make())

    async def test_life_of_a_user(self) -> None:
        """Create, check, update, remove; names are any bytes."""
        db = await self.make()
        for user in NAMES:
            self.assertFalse(await db.exists(user))
            self.assertFalse(await db.is_valid(user, KEY))
            await fails(self, NoSuchUserError, db.link(user))
            await db.add(user, KEY)
            self.assertTrue(await db.exists(user))
            self.assertTrue(await db.is_valid(user, KEY))
            for wrong in (OTHER, b"", KEY[:31], KEY + b"k"):
                self.assertFalse(await db.is_valid(user, wrong))
            await fails(self, UserExistsError, db.add(user, OTHER))
            self.assertEqual(await db.link(user), KEY)
            await db.add(user, OTHER, update=True)
            self.assertEqual(await db.link(user), OTHER)
        self.assertEqual(set(await db.users()), set(NAMES))
        for user in NAMES:
            await db.remove(user)
            await fails(self, NoSuchUserError, db.remove(user))
            self.assertFalse(await db.exists(user))
        self.assertEqual(await db.users(), [])

    async def test_update_of_nobody(self) -> None:
        """Creates nobody."""
        db = await self.make()
        await fails(self, NoSuchUserError, db.add(b"alice", KEY, update=True))
        self.assertFalse(await db.exists(b"alice"))

    async def test_identity(self) -> None:
        """Set, replace, remove; no such user and no identity are told apart; updates keep it, removal does not."""
        db = await self.make()
        for work in (db.identity(b"alice"), db.set_identity(b"alice", KEY), db.set_identity(b"alice", None)):
            await fails(self, NoSuchUserError, work)
        await db.add(b"alice", KEY)
        await fails(self, NoIdentityError, db.identity(b"alice"))
        await db.set_identity(b"alice", None)
        for key in (KEY, OTHER):
            await db.set_identity(b"alice", key)
            self.assertEqual(await db.identity(b"alice"), key)
        await db.add(b"alice", OTHER, update=True)
        self.assertEqual(await db.identity(b"alice"), OTHER)
        await db.set_identity(b"alice", None)
        await fails(self, NoIdentityError, db.identity(b"alice"))
        await db.set_identity(b"alice", KEY)
        await db.remove(b"alice")
        await db.add(b"alice", KEY)
        await fails(self, NoIdentityError, db.identity(b"alice"))

    async def test_ephemeral_marks(self) -> None:
        """Are set when the user is made, cleared by an update, gone with the user."""
        db = await self.make()
        await db.add(b"alice", KEY, ephemeral=True)
        await db.add(b"bob", KEY)
        await db.add(b"carol", KEY, ephemeral=True)
        self.assertEqual(set(await db.ephemeral_users()), {b"alice", b"carol"})
        await db.add(b"alice", OTHER, update=True)
        self.assertEqual(await db.ephemeral_users(), [b"carol"])
        await db.remove(b"carol")
        await db.add(b"carol", KEY)
        self.assertEqual(await db.ephemeral_users(), [])

    async def test_one_of_many_creates(self) -> None:
        """Of many who want the same name at once one gets it."""
        db = await self.make()
        results = await DeferredList([db.add(b"alice", bytes([n]) * 32) for n in range(10)], consumeErrors=True)
        winners = [n for n, (success, _) in enumerate(results) if success]
        self.assertEqual(len(winners), 1)
        self.assertTrue(all(f.check(UserExistsError) for success, f in results if not success))
        self.assertEqual(await db.link(b"alice"), bytes(winners) * 32)

    async def test_bad_names_and_keys(self) -> None:
        """Names of 1 to 32 bytes, and a key."""
        db = await self.make()
        for user, key in ((b"", KEY), (bytes(33), KEY), (b"alice", b"")):
            await fails(self, StoreError, db.add(user, key))
        self.assertEqual(await db.users(), [])

    async def test_model(self) -> None:
        """Any sequence of operations gives what a dict would."""
        await deferToThread(run_model, UserMachine, self.examples, await self.make())


class UserMachine(RuleBasedStateMachine):
    """A user database beside a model of it: name -> [link key, identity key, ephemeral]."""

    names = st.sampled_from(NAMES[:3])
    keys = st.sampled_from([KEY, OTHER])

    def __init__(self, db: Any) -> None:
        super().__init__()
        self._db = db
        self._model: dict[bytes, list[Any]] = {}

    @initialize()
    def empty(self) -> None:
        for user in wait(self._db.users):
            wait(self._db.remove, user)

    def _try(self, function: Any, *arguments: Any) -> Any:
        try:
            return wait(function, *arguments)
        except StoreError as e:
            return type(e)

    @rule(user=names, key=keys, update=st.booleans(), ephemeral=st.booleans())
    def add(self, user: bytes, key: bytes, update: bool, ephemeral: bool) -> None:
        ephemeral = ephemeral and not update
        outcome = self._try(self._db.add, user, key, update, ephemeral)
        there = user in self._model
        if update and not there:
            assert outcome is NoSuchUserError
        elif there and not update:
            assert outcome is UserExistsError
        else:
            assert outcome is None
            self._model[user] = [key, self._model[user][1] if there else None, ephemeral]

    @rule(user=names, key=st.one_of(st.none(), keys))
    def set_identity(self, user: bytes, key: bytes | None) -> None:
        outcome = self._try(self._db.set_identity, user, key)
        if user in self._model:
            assert outcome is None
            self._model[user][1] = key
        else:
            assert outcome is NoSuchUserError

    @rule(user=names)
    def remove(self, user: bytes) -> None:
        outcome = self._try(self._db.remove, user)
        assert outcome is (None if self._model.pop(user, None) else NoSuchUserError)

    @invariant()
    def same(self) -> None:
        assert set(wait(self._db.users)) == set(self._model)
        assert set(wait(self._db.ephemeral_users)) == {u for u, (_, _, marked) in self._model.items() if marked}
        for user in NAMES[:3]:
            key, identity, _ = self._model.get(user, (NoSuchUserError, NoSuchUserError, False))
            assert self._try(self._db.link, user) == key
            assert self._try(self._db.identity, user) == (NoIdentityError if identity is None else identity)
            assert wait(self._db.exists, user) is (user in self._model)
