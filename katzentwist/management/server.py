"""The management socket (spec: node 9, provider 7).

Commands are executed one after another over all connections. A client that sends without reading is read no further
once its replies pile up, and one that never ends its line is hung up on: neither costs more than a few hundred kB.
"""

from __future__ import annotations

import contextlib
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IAddress, IListeningPort, IPushProducer
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.errors import ConfigError, KatzentwistError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.management._core import (
    BAD_ARGUMENTS,
    FAILED,
    OK,
    UNKNOWN,
    ArgumentFault,
    Command,
    Lines,
    LineTooLongError,
    Reply,
    greeting,
)
from katzentwist.management.commands import Table

MODE = 0o700
BACKLOG = 16
MAX_PATH = 107
"""Bytes of a Unix socket's path."""


@implementer(IPushProducer)
class Session(Protocol):
    """One connection. Its lines are answered in order; nothing is read while one is under way."""

    def __init__(self, management: Management) -> None:
        self._management = management
        self._lines = Lines()
        self._busy = False
        self._blocked = False
        self._over = False
        self._going = False

    # Flow ----------------------------------------------------------------------------------------------------------

    def connectionMade(self) -> None:
        """Greet."""
        self._management.sessions.add(self)
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]
        self._say(greeting(self._management.identifier))

    def dataReceived(self, data: bytes) -> None:
        """Bytes of the client."""
        if not self._over:
            self._lines.receive(data)
            self._go_on()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """A command that is under way is finished nevertheless."""
        self._over = True
        self._management.sessions.discard(self)

    def pauseProducing(self) -> None:
        """The client does not read its replies."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """It reads again."""
        self._blocked = False
        self._go_on()

    def stopProducing(self) -> None:
        """The connection ends."""
        self._over = True

    # Lines ---------------------------------------------------------------------------------------------------------

    def _go_on(self) -> None:
        """Take lines until one needs time, the client does not read, or there are none."""
        if self._going:  # a command was done at once, or the transport had room at once: the loop below goes on
            return
        self._going = True
        try:
            while not (self._busy or self._blocked or self._over):
                line = self._lines.take()
                if line is None:
                    break
                self._execute(Command.parse(line))
        except LineTooLongError:
            self._management.log.warn("a management client sent a line that is too long: closing")
            self.end()
        finally:
            self._going = False
        if not self._over:
            transport: Any = self.transport
            if self._busy or self._blocked:
                transport.pauseProducing()
            else:
                transport.resumeProducing()

    def _execute(self, command: Command) -> None:
        if command.word == "QUIT":
            self._say(OK)
            self.end()
        elif command.word == "SHUTDOWN":
            self._over = True
            self._management.shutdown()
        else:
            self._busy = True
            self._management.execute(command).addCallback(self._answered)

    def _answered(self, reply: Reply) -> None:
        self._busy = False
        self._say(reply)
        self._go_on()

    def _say(self, reply: Reply) -> None:
        if not self._over:
            self.transport.write(reply.encode())  # type: ignore[union-attr]

    def end(self) -> None:
        """Close once everything is written; at once if the client does not read."""
        self._over = True
        transport: Any = self.transport
        transport.unregisterProducer()
        if self._blocked:
            transport.abortConnection()
        else:
            transport.loseConnection()


class Management(Factory):
    """The listener.

    :param table: the commands beside QUIT and SHUTDOWN.
    :param shutdown: begins the graceful stop of the process.
    """

    log = ModuleLogger("management")
    noisy = False

    def __init__(self, reactor: Any, path: str, identifier: str, table: Table, shutdown: Callable[[], None]) -> None:
        self._reactor, self._path, self._table = reactor, path, table
        self.identifier, self.shutdown = identifier, shutdown
        self.sessions: set[Session] = set()
        self._lock = DeferredLock()
        self._port: IListeningPort | None = None

    def buildProtocol(self, addr: IAddress | None) -> Session:
        """One more client."""
        return Session(self)

    # Commands ------------------------------------------------------------------------------------------------------

    def execute(self, command: Command) -> Deferred[Reply]:
        """Run a command when all earlier ones are done; never fails."""
        function = self._table.get(command.word)
        if function is None:
            done: Deferred[Reply] = Deferred()
            done.callback(UNKNOWN)
            return done
        arguments = command.arguments
        result: Deferred[str] = self._lock.run(lambda: Deferred.fromCoroutine(_awaited(function(arguments))))
        return result.addCallbacks(lambda text: Reply(250, text), self._failed, errbackArgs=(command.word,))

    def _failed(self, failure: Failure, word: str) -> Reply:
        if failure.check(ArgumentFault):
            return BAD_ARGUMENTS
        if failure.check(KatzentwistError):
            # What failed may name a user, which is nothing for the log of a normal day.
            self.log.debug("{word} failed: {why!r}", word=word, why=failure.getErrorMessage())
        else:
            self.log.failure("{word} failed because of an error of ours", failure=failure, word=word)
        return FAILED

    # Life ----------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Listen; a file that is in the way is deleted.

        :raises ConfigError: the path can not be listened on.
        """
        if len(self._path.encode()) > MAX_PATH:
            raise ConfigError(f"a Unix socket's path has at most {MAX_PATH} bytes: '{self._path}'", "Management.Path")
        try:
            remove_stale(Path(self._path), self.log)
            self._port = self._reactor.listenUNIX(self._path, self, backlog=BACKLOG, mode=MODE)
        except (OSError, CannotListenError) as e:
            why = e.socketError if isinstance(e, CannotListenError) else e.strerror
            raise ConfigError(f"can not listen on '{self._path}': {why}", "Management.Path") from e
        notice(self.log, "management on {path}", path=self._path)

    async def stop(self) -> None:
        """Close all sessions and remove the file."""
        port, self._port = self._port, None
        if port is None:
            return
        for session in list(self.sessions):
            session.end()
        with contextlib.suppress(FileNotFoundError):  # somebody deleted the socket file
            await maybeDeferred(port.stopListening)


async def _awaited(result: Any) -> str:
    return str(await result)


def remove_stale(path: Path, log: ModuleLogger) -> None:
    """Delete the socket file of an earlier run.

    :raises OSError: it can not be deleted, for instance because it is a directory.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    what = "socket" if stat.S_ISSOCK(mode) else "file"
    log.warn("a {what} exists at '{path}': deleting it", what=what, path=str(path))
    path.unlink()
