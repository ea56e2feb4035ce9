"""What command line tools need to be a client for a moment (design 2)."""

from __future__ import annotations

import base64
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from twisted.internet.defer import CancelledError, Deferred, FirstError
from twisted.internet.task import deferLater, react

from katzentwist.client import events
from katzentwist.client._core import ClientCore
from katzentwist.client.core import Client, Listener, proxied_transports
from katzentwist.client.gateways import Backoff, Credentials
from katzentwist.client.pacing import Pacer
from katzentwist.clock import Epochs, SystemClock
from katzentwist.config.client import ClientConfig
from katzentwist.config.schema import Report
from katzentwist.crypto import kem, keys
from katzentwist.errors import ConfigError, KatzentwistError
from katzentwist.net.owner import Context
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.extras import load_client
from katzentwist.node.keyfiles import read_private, write_file
from katzentwist.node.startup import epochs_of
from katzentwist.pki.document import Document, SignedDocument
from katzentwist.randomness import SystemRandom

C = TypeVar("C")
PATIENCE: Final = 60.0
"""Seconds until a network that can not be reached is given up; at least an epoch and a half of short epochs."""
STEP: Final = 2.0
"""A person waits, so tools dial sooner again than the daemon."""


class ToolError(KatzentwistError):
    """The tool can not do what was asked."""


@attrs.frozen
class User:
    """A user of a Provider: name and link key file (spec: client 4.7)."""

    name: str
    key_file: Path


def read_config(path: Path) -> ClientConfig:
    """A client file.

    :raises ToolError: see :func:`read_file`.
    """
    return read_file(path, load_client)


def read_file(path: Path, load: Callable[[str], tuple[C | None, Report]]) -> C:
    """A configuration file.

    :raises ToolError: it can not be read or has mistakes; all of them are in the text.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror if isinstance(e, OSError) else "not UTF-8"
        raise ToolError(f"can not read {path}: {reason}") from e
    config, report = load(text)
    if config is None:
        lines = "\n".join(f"  {error}" for error in report.errors)
        raise ToolError(f"{path} has mistakes:\n{lines}")
    return config


def load_user_key(user: User, config: ClientConfig, say: Callable[[str], None]) -> Callable[[kem.Kem], Credentials]:
    """The credentials of a user; a missing key file is made and its public half shown once.

    :raises KatzentwistError: the file can not be used.
    """
    scheme = kem.by_name(config.wire_kem)
    try:
        there = os.path.lexists(user.key_file)
    except OSError as e:
        raise ToolError(f"--link-key {user.key_file}: {e.strerror}") from e
    if there:
        private = read_private(user.key_file, scheme)
    else:
        private, public = scheme.generate(SystemRandom())
        write_file(user.key_file, keys.encode_private(scheme, private))
        say(f"made {user.key_file}; its public key, for ADD_USER {user.name}:\n{base64.b64encode(public).decode()}")
    credentials = Credentials.fixed(scheme, user.name, private)

    def for_kem(wanted: kem.Kem) -> Credentials:
        if wanted.name != scheme.name:
            raise ConfigError(f"the gateway wants a {wanted.name} key, {user.key_file} holds {scheme.name}")
        return credentials

    return for_kem


class Tool(Listener):
    """A client on the system's clocks, with what a tool waits for.

    :ivar pacer: tokens of the gateway's rate limit.
    """

    def __init__(
        self,
        reactor: Any,
        config: ClientConfig,
        *,
        credentials: Callable[[kem.Kem], Credentials] | None = None,
        gateway: str = "",
        keep_plain: bool = False,
    ) -> None:
        self.reactor = reactor
        self.clock, self.random = SystemClock(), SystemRandom()
        self.epochs: Epochs = epochs_of(config.epoch_duration, os.environ)
        self._workers = ThreadWorkers(reactor)
        self.pacer = Pacer()
        self.core = ClientCore(
            config,
            self.epochs,
            self.clock,
            self.random,
            credentials=credentials,
            only=gateway,
            backoff=Backoff(step=STEP),
            keep_plain=keep_plain,
        )
        process = os.getpid().to_bytes(8, "big") + int(time.time()).to_bytes(8, "big")
        transports = proxied_transports(reactor, config.proxy, f"session {self.random.below(2**64)}", process)
        context = Context(reactor=reactor, clock=self.clock, random=self.random, workers=self._workers)
        self.client = Client(context, transports, self.core, self)
        self.why_not = "no gateway answered"
        self._waiting: list[Deferred[None]] = []

    def start(self) -> None:
        """Begin."""
        self._workers.start()
        self.core.documents.insist()
        self.client.start()

    async def stop(self) -> None:
        """End."""
        await self.client.stop()
        self._workers.stop()

    async def ready(
        self, patience: float = 0.0, connected: bool = True, say: Callable[[str], None] = lambda text: None
    ) -> Document:
        """Wait for a session and a current document.

        :param connected: False if a document is enough.
        :param say: told each second what is waited for, and why it is not there.
        :raises ToolError: it took too long.
        """
        patience = patience or max(PATIENCE, min(1.5 * self.epochs.period, 180.0))
        until = self.clock.monotonic() + patience
        while True:
            document = self.core.document()
            if document is not None and (self.core.connected or not connected):
                return document
            left = until - self.clock.monotonic()
            what = "gateway session" if not self.core.connected else "current document from the gateway"
            if left <= 0:
                raise ToolError(f"waited {patience:.0f} s in vain for a {what}: {self.why_not}")
            say(f"no {what} yet, {left:.0f} s left: {self.why_not}")
            await self._change(min(left, 1.0))

    async def _change(self, seconds: float) -> None:
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        timer = self.reactor.callLater(seconds, self._changed)
        await waiting
        if timer.active():
            timer.cancel()

    def _changed(self) -> None:
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.callback(None)

    async def turn(self) -> None:
        """Wait for a token of the gateway's rate limit."""
        while True:
            document = await self.ready()
            self.pacer.use_rates(document.lambda_p, document.lambda_l)
            delay = self.pacer.wait(self.clock.monotonic())
            if not delay:
                return
            await deferLater(self.reactor, delay)

    def connected(self, gateway: str) -> None:
        """See Listener."""
        self.why_not = f"gateway {gateway} has no document of this epoch yet"
        self.pacer.connected(self.clock.monotonic())
        self._changed()

    def disconnected(self, reason: str) -> None:
        """See Listener."""
        self.why_not = reason
        self._changed()

    def fetched(self, document: SignedDocument) -> None:
        """See Listener."""
        self._changed()

    def replied(self, reply: events.Replied) -> None:
        """Tags are Deferreds."""
        if isinstance(reply.tag, Deferred) and not reply.tag.called:
            reply.tag.callback(reply.payload)


def run(main: Callable[[Any], Coroutine[Any, Any, int]]) -> int:
    """Run *main* under the reactor; the exit status.

    SIGINT and SIGTERM cancel *main*, and wait until it has cleaned up: what it leaves behind are threads, which would
    keep the process alive.

    :raises KatzentwistError: what *main* raised.
    """
    from twisted.internet import reactor  # noqa: PLC0415 - the front chooses the reactor

    # Delays must not move when the wall clock is set; callLater follows this attribute.
    reactor.seconds = time.monotonic  # type: ignore[method-assign]
    failure: list[BaseException] = []

    async def guarded(given: Any) -> None:
        try:
            status = await main(given)
        except (KatzentwistError, OSError) as e:
            failure.append(e)
            status = 1
        except (CancelledError, FirstError) as e:
            if isinstance(e, FirstError) and not e.subFailure.check(CancelledError):
                raise
            status = 1
        if status:
            raise SystemExit(status)

    def interruptible(given: Any) -> Deferred[None]:
        running = Deferred.fromCoroutine(guarded(given))

        def interrupt() -> Deferred[None]:
            running.cancel()
            return running

        given.addSystemEventTrigger("before", "shutdown", interrupt)
        return running

    try:
        react(interruptible)
    except SystemExit as e:
        if failure:
            raise failure[0] from None
        return e.code if isinstance(e.code, int) else 1
    return 0
