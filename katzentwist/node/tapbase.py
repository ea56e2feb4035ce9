"""The root service of the twistd plugins: start, signals, log and stop.

twistd stands in the way of several promises; each place below says which. The command line is in
:mod:`katzentwist.node.options`.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import gc
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, NoReturn, TextIO

from twisted.application import service
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorCore
from twisted.logger import ILogObserver
from twisted.python import failure
from twisted.python.components import Componentized

from katzentwist.config.common import Logging
from katzentwist.config.schema import Report
from katzentwist.errors import KatzentwistError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.net.portions import in_portions
from katzentwist.node.logging import LogFile
from katzentwist.node.notify import Notifier
from katzentwist.node.options import DaemonOptions, die

MAX_FILES: Final = 65536
"""Open files, connections above all; as in contrib/systemd."""
COLLECTIONS: Final = (1000, 2, 1000)
"""When garbage is collected. A collection holds up everything, 0.1 to 0.3 us for each object that it looks at: so the
young ones, of some 3000 objects, take about a ms, in a turn that has other work as well; and one of everything, which
takes 5 ms for 20,000, is rare: after three million new objects."""
IMPATIENCE: Final = 1.0
"""Seconds after which a second signal is meant as one."""


class Daemon(service.MultiService):
    """The root service of a program: it owns the log, the signals, the start and the stop.

    Subclasses give :meth:`prepare` and :meth:`start`; child services may be added in either.
    """

    name = "katzentwist"

    def __init__(self, options: DaemonOptions, logging: Logging, report: Report, reactor: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        os.umask(0o077)
        _raise_file_limit()
        # Handshakes and documents run Python in threads; the reactor must not wait 5 ms for each of them.
        sys.setswitchinterval(0.0005)
        # Delays must not move when the wall clock is set; callLater follows this attribute.
        reactor.seconds = time.monotonic
        in_portions(reactor)
        self.reactor: Any = reactor
        self.log = ModuleLogger("server")
        self._options, self._report = options, report
        self._settings = logging
        self._log_file: LogFile | None = None
        self._notify = Notifier.from_environment(os.environ)
        self._stopping = False
        self._stopping_since = 0.0
        self.nodaemon = bool(options.parent and options.parent.get("nodaemon"))
        self._terminal: TextIO = sys.__stderr__ or sys.stderr
        if options.parent and not self.nodaemon:
            self._keep_terminal()

    # Life ----------------------------------------------------------------------------------------------------------

    def _keep_terminal(self) -> None:
        """A daemon loses its standard error before it starts; until then whoever started it shall hear of failures."""
        if not (self._settings.file or self._settings.disable):
            self._tell("the log goes to standard output, which a daemon has not: set [Logging] File, or use twistd -n")
        with contextlib.suppress(OSError, ValueError):
            descriptor = os.dup(self._terminal.fileno())
            os.set_inheritable(descriptor, False)
            self._terminal = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")

    def _release_terminal(self) -> None:
        if self._terminal not in (sys.__stderr__, sys.stderr):
            with contextlib.suppress(OSError):
                self._terminal.close()
        self._terminal = sys.__stderr__ or sys.stderr

    def _tell(self, message: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            print(message, file=self._terminal, flush=True)

    def before_log(self) -> None:
        """What must be there before the log file can be: its folder.

        :raises KatzentwistError: it can not be made.
        """

    def setServiceParent(self, parent: Any) -> None:
        """Install our log observer before twistd installs its own."""
        try:
            self.before_log()
        except KatzentwistError as e:
            die(f"failed to spawn server instance: {e}")
        try:
            self._log_file = LogFile(self._settings)
        except OSError as e:
            die(f"config key Logging.File: can not open '{self._settings.file}': {e.strerror}")
        if isinstance(parent, Componentized):
            parent.setComponent(ILogObserver, self._log_file)
        super().setServiceParent(parent)  # type: ignore[no-untyped-call]

    def prepare(self) -> None:
        """What can fail at once: directories, keys, sockets.

        :raises KatzentwistError: the program can not start.
        """

    async def start(self) -> None:
        """The rest of the start, once :meth:`prepare` is done."""

    async def stop(self) -> None:
        """Close what :meth:`start` opened, before the child services stop."""

    def abandon(self, *, started: bool) -> None:
        """Save what must not be lost although there will be no :meth:`stop`, and end threads, which would keep the
        process alive. Must not wait for the reactor.

        :param started: False after a refused start, True when a second signal ends a stop that takes too long.
        """

    def startService(self) -> None:
        """Start; failures end the program with status 1 and one message."""
        # Now, since a signal may come before the reactor runs; and again then, since the reactor installs its own.
        self._install_signals()
        self.reactor.callWhenRunning(self._install_signals)
        _make_room_for_files()
        for warning in self._report.warnings:
            self.log.warn("{warning}", warning=warning)
        for key in sorted(set(self._report.unknown)):
            self.log.warn("unknown configuration key {key}: ignored", key=key)
        try:
            self.prepare()
        except (KatzentwistError, OSError) as e:
            self._refuse_start(e)
        super().startService()  # type: ignore[no-untyped-call]
        started = Deferred.fromCoroutine(self._guarded(self.start()))
        if isinstance(started.result if started.called else None, failure.Failure):
            # It failed at once, so a used port and the like still reach the one who started us.
            early: list[failure.Failure] = []
            started.addErrback(early.append)
            if isinstance(early[0].value, (KatzentwistError, OSError)):
                self._refuse_start(early[0].value)
            self._failed_later(early[0])
        started.addErrback(self._failed_later)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        await work
        # What lives as long as the process, all code above all, need not be looked at by every full collection: they
        # hold up everything, 20 ms and more with it.
        gc.collect()
        gc.freeze()
        gc.set_threshold(*COLLECTIONS)
        self._release_terminal()
        if not self._stopping:
            self._notify.ready()
            self._notify.keep_alive(self.reactor)

    def _refuse_start(self, error: Exception) -> NoReturn:
        message = f"failed to spawn server instance: {error}"
        self.log.error("{message}", message=message)
        self._abandon(started=False)
        self._tell(message)
        self._release_terminal()
        self._remove_pid_file()
        if self.nodaemon:
            # While the log runs sys.stderr is the log. (SystemExit in a daemon would leave its parent waiting.)
            raise SystemExit(1)
        raise error

    def _abandon(self, *, started: bool) -> None:
        try:
            self.abandon(started=started)
        except Exception:  # we end anyhow
            self.log.failure("an error while giving up")

    def _remove_pid_file(self) -> None:
        """twistd leaves it behind when a start fails."""
        path = self._options.parent.get("pidfile") if self._options.parent else None
        with contextlib.suppress(OSError, ValueError):
            if path and int(Path(path).read_text("ascii")) == os.getpid():
                Path(path).unlink()

    def _failed_later(self, reason: failure.Failure) -> None:
        if reason.check(KatzentwistError, OSError):
            self.fail(f"failed to spawn server instance: {reason.getErrorMessage()}")
        else:
            self.log.failure("the start failed", failure=reason)
            self.fail(f"failed to spawn server instance: internal error: {reason.getErrorMessage()}")

    def fail(self, message: str) -> None:
        """End the running program with status 1."""
        if self._stopping:
            return
        self.log.error("{message}", message=message)
        self._tell(message)
        atexit.register(_exit_with, 1)
        self.shutdown()

    def shutdown(self) -> None:
        """Begin the graceful stop."""
        if self._stopping:
            return
        self._stopping, self._stopping_since = True, time.monotonic()
        notice(self.log, "Starting graceful shutdown.")
        self._notify.stopping()
        core: IReactorCore = self.reactor
        if getattr(self.reactor, "running", True):
            core.stop()
        else:
            core.callWhenRunning(core.stop)

    def stopService(self) -> Deferred[None]:
        """Stop everything; fires when all is closed."""
        self._stopping = True
        return Deferred.fromCoroutine(self._stop_all())

    async def _stop_all(self) -> None:
        try:
            await self.stop()
        except Exception:  # the stop goes on: the children must be closed too
            self.log.failure("an error while stopping")
        await service.MultiService.stopService(self)
        notice(self.log, "Shutdown complete.")

    # Signals -------------------------------------------------------------------------------------------------------

    def _install_signals(self) -> None:
        """twistd would kill itself with the signal that stopped it; the promise is status 0."""

        def on(number: int, call: Callable[[], None]) -> None:
            with contextlib.suppress(ValueError):  # not in the main thread: a test runs us
                signal.signal(number, lambda *_: self.reactor.callFromThread(call))

        on(signal.SIGTERM, self._terminate)
        on(signal.SIGINT, self._terminate)
        on(signal.SIGHUP, self.reopen_log)

    def _terminate(self) -> None:
        """The first signal begins the stop; one that comes a while later ends it. (Supervisors may send it twice.)"""
        if not self._stopping:
            self.shutdown()
        elif time.monotonic() > self._stopping_since + IMPATIENCE:
            self.log.warn("another signal: ending at once")
            self._abandon(started=True)
            os._exit(1)

    def reopen_log(self) -> None:
        """SIGHUP: open the log file anew; if that fails the program ends."""
        try:
            if self._log_file is not None:
                self._log_file.reopen()
        except OSError as e:
            self.fail(f"can not reopen the log file '{self._settings.file}': {e.strerror}")


def _raise_file_limit() -> None:
    """Allow as many connections as the host does; the usual soft limit, for the sake of select(), is 1024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _make_room_for_files() -> None:
    """Let the kernel's table of our files have its full size, half a MiB, before there are threads.

    It doubles when it is full, and then the one who opens a file waits 5 to 30 ms until no other thread looks at the
    old table: a mix that dials thousands of nodes would do so in its reactor.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    last = (MAX_FILES if soft == resource.RLIM_INFINITY else min(soft, MAX_FILES)) - 1
    with contextlib.suppress(OSError):
        read, write = os.pipe()
        os.close(write)
        with contextlib.suppress(OSError):
            os.close(fcntl.fcntl(read, fcntl.F_DUPFD_CLOEXEC, last))
        os.close(read)


def _exit_with(status: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
