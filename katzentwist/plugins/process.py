"""One plugin process with its socket (spec: node 7.7).

The first line of standard output names a Unix socket; that is dialled once and kept. A process whose socket closes,
or whose messages are none, is ended: there is nothing between working and gone.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.endpoints import UNIXClientEndpoint, connectProtocol
from twisted.internet.error import ConnectError, ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IPushProducer
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from zope.interface import implementer

from katzentwist.errors import PluginError
from katzentwist.logger import ModuleLogger
from katzentwist.plugins.framing import Items

LINE_LIMIT: Final = 30.0
"""Seconds until the line with the socket's path must be there."""
LINE_LENGTH: Final = 4096
PATH_LENGTH: Final = 107
"""Bytes of a Unix socket's path."""
DIALS: Final = 40
DIAL_PAUSE: Final = 1.0
GRACE: Final = 5.0
"""Seconds between SIGTERM and SIGKILL."""
LAST_WORDS: Final = 0.5
"""Seconds in which a process that closed its socket may end, so that its exit status is known."""
TURN: Final = 64
"""Messages that are processed before others get their turn."""
RECORD: Final = 2000
"""Characters of one log record."""
SAID: Final = 200
"""Characters of the last words of a plugin that can not be started."""
PRIVATE: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY", "PGPASSWORD")
"""What the node's environment says to the node alone."""


def environment(own: Mapping[str, str]) -> dict[str, str]:
    """The environment of a plugin."""
    return {k: v for k, v in own.items() if k not in PRIVATE and not k.startswith("LISTEN_")}


def printable(raw: bytes) -> str:
    """What a plugin wrote, harmless on a terminal and in a log of lines."""
    text = raw[: 2 * RECORD].decode("utf-8", "replace").strip()[:RECORD]
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


@implementer(IPushProducer)
class _Connection(Protocol):
    """The socket. Reads no faster than messages are processed."""

    def __init__(self, process: PluginProcess) -> None:
        self._process = process
        self._items = Items()
        self._waiting: Any = None
        self.writable = True

    def connectionMade(self) -> None:
        self.transport.registerProducer(self, True)  # type: ignore[union-attr]

    def dataReceived(self, data: bytes) -> None:
        self._items.receive(data)
        if self._waiting is None:
            self._take()

    def _take(self) -> None:
        self._waiting = None
        transport: Any = self.transport
        try:
            for _ in range(TURN):
                item = self._items.take()
                if item is None:
                    transport.resumeProducing()
                    return
                self._process.received(item)
        except PluginError as e:
            self._process.kill(str(e))
            return
        transport.pauseProducing()
        self._waiting = self._process.reactor.callLater(0, self._take)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None
        self.writable = False
        self._process.socket_closed()

    def pauseProducing(self) -> None:
        self.writable = False

    def resumeProducing(self) -> None:
        self.writable = True
        self._process.drained()

    def stopProducing(self) -> None:
        self.writable = False


class PluginProcess(ProcessProtocol):
    """One process.

    :param received: takes one raw message; raises PluginError for one that is none.
    :param drained: called when the process reads again.
    :param ended: called once, with the reason, after the process is gone; only if :meth:`start` succeeded.
    """

    def __init__(
        self,
        reactor: Any,
        command: str,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        received: Callable[[bytes], None],
        drained: Callable[[], None],
        ended: Callable[[str], None],
    ) -> None:
        self.reactor = reactor
        self.received, self.drained = received, drained
        self.log = ModuleLogger(command)
        self._command, self._arguments, self._environment = command, arguments, environment
        self._ended = ended
        self._output = b""
        self._line: Deferred[str] | None = None
        self._path = ""
        self._connection: _Connection | None = None
        self._dialling: Deferred[Any] | None = None
        self._alive = False
        self._why = self._said = ""
        self._gone: Deferred[None] = Deferred()
        self._kill_timer: Any = None

    # Start ---------------------------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Run the program and connect to it.

        :raises PluginError: it can not be run, ends, says no path in time, or can not be dialled; it is gone then.
        """
        program = shutil.which(self._command, path=self._environment.get("PATH"))
        if program is None:
            raise PluginError(f"can not execute '{self._command}': no such program")
        self._line = Deferred()
        self._spawn(program)
        limit = self.reactor.callLater(LINE_LIMIT, self.kill, f"no line with a socket path within {LINE_LIMIT:.0f} s")
        try:
            self._path = await self._line
            limit.cancel()
            await self._dial()
        except PluginError as e:
            self.kill(str(e))
            await self.gone()
            raise PluginError(self._why) from e
        finally:
            if limit.active():
                limit.cancel()

    def _spawn(self, program: str) -> None:
        # Standard input is not used; a plugin that reads it nevertheless finds its end.
        with Path(os.devnull).open("rb") as nothing:
            self.reactor.spawnProcess(
                self,
                program,
                [self._command, *self._arguments],
                env=dict(self._environment),
                childFDs={0: nothing.fileno(), 1: "r", 2: "r"},
            )
        self._alive = True

    async def _dial(self) -> None:
        raw = os.fsencode(self._path)
        if not 1 <= len(raw) <= PATH_LENGTH or b"\0" in raw:
            raise PluginError(f"its first line is not the path of a socket: {printable(raw)!r}")
        for _ in range(DIALS):
            if not self._alive:
                raise PluginError(self._why)
            try:
                endpoint = UNIXClientEndpoint(self.reactor, self._path, timeout=5)
                self._connection = await connectProtocol(endpoint, _Connection(self))
                return
            except ConnectError as e:
                why = e
            self._dialling = deferLater(self.reactor, DIAL_PAUSE)
            with contextlib.suppress(CancelledError):
                await self._dialling
        raise PluginError(f"can not connect to the socket it named, {printable(raw)!r}: {why}")

    # What the process does -----------------------------------------------------------------------------------------

    def outReceived(self, data: bytes) -> None:
        """Standard output: only the first line is read; a plugin that writes on fills its pipe and waits."""
        if self._line is None:
            return
        self._output += data
        head, end, _ = self._output.partition(b"\n")
        if end:
            self._stop_reading_output()
            line, self._line = self._line, None
            line.callback(os.fsdecode(head.strip()))
        elif len(self._output) > LINE_LENGTH:
            self._stop_reading_output()
            self.kill("its first line does not end")

    def _stop_reading_output(self) -> None:
        self._output = b""
        transport: Any = self.transport
        transport.pipes[1].stopReading()

    def errReceived(self, data: bytes) -> None:
        """Standard error: to the log, a record per read."""
        if text := printable(data):
            self.log.debug("{text}", text=text)
            self._said = printable(data.rstrip().rpartition(b"\n")[2])[:SAID]

    def processExited(self, reason: Failure) -> None:
        """The process is gone; a grandchild may hold its pipes, so we do not wait for their end."""
        status = reason.value
        how = "it ended" if isinstance(status, ProcessDone) else _how_it_ended(status)
        transport: Any = self.transport
        transport.closeChildFD(1)
        # What it said last may still be on its way to errReceived.
        self.reactor.callLater(0, self._over, how)

    def _over(self, how: str) -> None:
        self._alive = False
        if self._connection is None and self._said:
            how = f"{how}, and said: {self._said}"
        if self._kill_timer is not None and self._kill_timer.active():
            self._kill_timer.cancel()
        self._why = self._why or how
        started = self._connection is not None
        if self._connection is not None:
            self._connection.transport.abortConnection()  # type: ignore[union-attr]
        self._remove_socket()
        line, self._line = self._line, None
        if line is not None:
            line.errback(PluginError(self._why))
        if self._dialling is not None and not self._dialling.called:
            self._dialling.cancel()
        gone, self._gone = self._gone, Deferred()
        self._gone.callback(None)
        gone.callback(None)
        if started:
            self._ended(self._why)

    def _remove_socket(self) -> None:
        """A plugin that was terminated leaves its socket behind; nothing but a socket is deleted on its word."""
        if self._path:
            with contextlib.suppress(OSError, ValueError):
                path = Path(self._path)
                if stat.S_ISSOCK(path.lstat().st_mode):
                    path.unlink()

    # What is done to it --------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int | None:
        """Its number, while it runs."""
        pid: int | None = getattr(self.transport, "pid", None)
        return pid if self._alive else None

    @property
    def writable(self) -> bool:
        """Whether it is connected and reads what we write."""
        return self._connection is not None and self._alive and not self._why and self._connection.writable

    def write(self, data: bytes) -> None:
        """Send one message."""
        if self._connection is not None:
            self._connection.transport.write(data)  # type: ignore[union-attr]

    def socket_closed(self) -> None:
        """There is one connection per process; without it the process is of no use."""
        if self._alive and not self._why:
            self._kill_timer = self.reactor.callLater(LAST_WORDS, self.kill, "its socket was closed")

    def kill(self, why: str) -> None:
        """End it now; *why* is what start() or *ended* will say."""
        if not self._alive or self._why:
            return
        self._why = why
        if self._connection is not None:
            self._connection.transport.abortConnection()  # type: ignore[union-attr]
        self._signal("KILL")

    def stop(self) -> Deferred[None]:
        """End it: SIGTERM, 5 s later SIGKILL; fires when it is gone."""
        if self._alive and not self._why:
            self._why = "stopped"
            self._signal("TERM")
            if self._kill_timer is not None and self._kill_timer.active():
                self._kill_timer.cancel()
            self._kill_timer = self.reactor.callLater(GRACE, self._signal, "KILL")
        return self.gone()

    def gone(self) -> Deferred[None]:
        """Fires when there is no process any more."""
        done: Deferred[None] = Deferred()
        if self._alive:
            self._gone.addCallback(_pass_on, done)
        else:
            done.callback(None)
        return done

    def _signal(self, name: str) -> None:
        with contextlib.suppress(ProcessExitedAlready):
            self.transport.signalProcess(name)  # type: ignore[union-attr]


def _pass_on(result: None, to: Deferred[None]) -> None:
    to.callback(result)


def _how_it_ended(status: Any) -> str:
    if getattr(status, "signal", None):
        return f"it was ended by signal {status.signal}"
    return f"it ended with status {getattr(status, 'exitCode', '?')}"
