"""What the management commands do (spec: node 9, provider 7).

A command is an async function of its arguments; it returns the text that follows 250, and raises
:class:`~katzentwist.management._core.ArgumentFault` for 501 and any other of our errors for 554.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from katzentwist.config.common import parse_key
from katzentwist.config.names import MAX_NAME, UserNames
from katzentwist.crypto.keys import KeyScheme
from katzentwist.errors import ConfigError, NoIdentityError, StoreError
from katzentwist.interfaces import ISpool, IUserDB
from katzentwist.logger import ModuleLogger
from katzentwist.management._core import DONE, ArgumentFault

Function = Callable[[list[str]], Awaitable[str]]
Table = Mapping[str, Function]
"""Command word in capital letters -> what it does."""

IDENTITY_SIZE: Final = 32
"""An identity key of X25519 is always taken, beside one of the network's KEM (spec: provider 2.2)."""
_NUMBER: Final = re.compile("0*([0-9]{1,20})")


class Limits(Protocol):
    """The rate limit of clients."""

    def send_rate(self, per_minute: int) -> None:
        """So many packets per minute."""

    def send_burst(self, packets: int) -> None:
        """So many packets at once."""


class Services(Protocol):
    """The services of the node."""

    def start_one(self, capability: str) -> Deferred[None]:
        """Start a service that does not run."""

    def stop_one(self, capability: str) -> Deferred[None]:
        """Stop a service that runs."""


def _count(arguments: list[str], *allowed: int) -> None:
    if len(arguments) not in allowed:
        raise ArgumentFault(f"{len(arguments)} arguments")


def _number(text: str) -> int:
    match = _NUMBER.fullmatch(text)
    value = int(match[1]) if match else 2**64
    if value >= 2**64:
        raise ArgumentFault("not an unsigned 64-bit number")
    return value


def _shown(key: bytes) -> str:
    return base64.b64encode(key).decode("ascii")


class UserCommands:
    """Users and their keys.

    :param scheme: of link keys.
    :param changed: called with the name of a user who was removed or got another key.
    :param names: the rules for user names.
    """

    log = ModuleLogger("management")

    def __init__(
        self,
        users: IUserDB,
        spool: ISpool,
        scheme: KeyScheme,
        changed: Callable[[bytes], None],
        names: UserNames | None = None,
    ) -> None:
        self._users, self._spool, self._scheme, self._changed = users, spool, scheme, changed
        self._names = names or UserNames()

    def table(self) -> Table:
        """The commands."""
        return {
            "ADD_USER": self.add,
            "UPDATE_USER": self.update,
            "REMOVE_USER": self.remove,
            "SET_USER_IDENTITY": self.set_identity,
            "REMOVE_USER_IDENTITY": self.remove_identity,
            "USER_IDENTITY": self.identity,
            "USER_LINK": self.link,
        }

    def _user(self, text: str) -> bytes:
        """The canonical name.

        :raises ArgumentFault: no legal name.
        :raises StoreError: legal, but no user can have it.
        """
        user = self._names.of_command(text)
        if not user:
            raise ArgumentFault("not a user name")
        if len(user) > MAX_NAME:
            raise StoreError("the name is too long")
        return user

    def _key(self, text: str, *more_sizes: int) -> bytes:
        try:
            return parse_key(text, (self._scheme.public_key_size, *more_sizes), self._scheme)
        except ConfigError as e:
            raise ArgumentFault(str(e)) from e

    async def add(self, arguments: list[str]) -> str:
        """ADD_USER user key."""
        _count(arguments, 2)
        key = self._key(arguments[1])
        await self._users.add(self._user(arguments[0]), key)
        return DONE

    async def update(self, arguments: list[str]) -> str:
        """UPDATE_USER user key: another link key; sessions with the old one end."""
        _count(arguments, 2)
        key = self._key(arguments[1])
        user = self._user(arguments[0])
        await self._users.add(user, key, update=True)
        self._changed(user)
        return DONE

    async def remove(self, arguments: list[str]) -> str:
        """REMOVE_USER user; refused while an identity key is set, so that nobody can inherit it."""
        _count(arguments, 1)
        user = self._user(arguments[0])
        try:
            await self._users.identity(user)
        except NoIdentityError:
            pass
        else:
            raise StoreError("the user has an identity key")
        await self._users.remove(user)
        try:
            await self._spool.remove(user)
        except StoreError as e:
            self.log.error("a user was removed, but not what waits for him: {why}", why=str(e))
        self._changed(user)
        return DONE

    async def set_identity(self, arguments: list[str]) -> str:
        """SET_USER_IDENTITY user [key]; without a key the identity is removed."""
        _count(arguments, 1, 2)
        key = self._key(arguments[1], IDENTITY_SIZE) if len(arguments) == 2 else None
        await self._users.set_identity(self._user(arguments[0]), key)
        return DONE

    async def remove_identity(self, arguments: list[str]) -> str:
        """REMOVE_USER_IDENTITY user."""
        _count(arguments, 1)
        await self._users.set_identity(self._user(arguments[0]), None)
        return DONE

    async def identity(self, arguments: list[str]) -> str:
        """USER_IDENTITY user."""
        _count(arguments, 1)
        return _shown(await self._users.identity(self._user(arguments[0])))

    async def link(self, arguments: list[str]) -> str:
        """USER_LINK user."""
        _count(arguments, 1)
        return _shown(await self._users.link(self._user(arguments[0])))


class RateCommands:
    """The rate limit of clients.

    :param changed: called after a change, to tell the sessions.
    """

    def __init__(self, limits: Limits, changed: Callable[[], None]) -> None:
        self._limits, self._changed = limits, changed

    def table(self) -> Table:
        """The commands."""
        return {"SEND_RATE": self.rate, "SEND_BURST": self.burst}

    async def rate(self, arguments: list[str]) -> str:
        """SEND_RATE n."""
        return self._set(arguments, self._limits.send_rate)

    async def burst(self, arguments: list[str]) -> str:
        """SEND_BURST n."""
        return self._set(arguments, self._limits.send_burst)

    def _set(self, arguments: list[str], use: Callable[[int], None]) -> str:
        _count(arguments, 1)
        value = _number(arguments[0])
        use(value)
        self._changed()
        return str(value)


class ServiceCommands:
    """Starting and stopping services."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def table(self) -> Table:
        """The commands."""
        return {"START_KAETZCHEN": self.start, "STOP_KAETZCHEN": self.stop}

    async def start(self, arguments: list[str]) -> str:
        """START_KAETZCHEN capability."""
        _count(arguments, 1)
        await self._services.start_one(arguments[0])
        return arguments[0]

    async def stop(self, arguments: list[str]) -> str:
        """STOP_KAETZCHEN capability."""
        _count(arguments, 1)
        await self._services.stop_one(arguments[0])
        return arguments[0]
