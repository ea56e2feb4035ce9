"""``twistd katzenclient``: the client daemon, kpclientd (spec: client 16.4)."""

from __future__ import annotations

import os
import time
from typing import Any

from twisted.application.service import IService
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.interfaces import IListeningPort
from twisted.internet.task import deferLater

from katzentwist.client._core import ClientCore
from katzentwist.client.core import proxied_transports
from katzentwist.client.listener import AppFactory
from katzentwist.client.multiplexer import Multiplexer
from katzentwist.client.sockets import listen
from katzentwist.clock import Epochs, SystemClock
from katzentwist.config.client import ClientConfig
from katzentwist.config.schema import Report
from katzentwist.errors import KatzentwistError
from katzentwist.logger import notice
from katzentwist.net.owner import Context
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.extras import load_client
from katzentwist.node.options import DaemonOptions, die, read_config
from katzentwist.node.startup import epochs_of
from katzentwist.node.tapbase import Daemon
from katzentwist.randomness import SystemRandom

FAREWELL = 1.0
"""Seconds that applications get to take what was written before the end."""


class Options(DaemonOptions):
    """The command line."""

    program = "katzenclient"
    summary = "The client daemon of a Katzenpost mix network, for any number of local applications."
    default_files = ("client.toml",)

    def opt_c(self, file: str) -> None:
        """The same as -f."""
        self.opt_config(file)

    def getUsage(self, width: int | None = None) -> str:
        """The text of ``--help``; usage shows one short name of an option."""
        return f"{super().getUsage(width)}-c is the same as -f, as in kpclientd.\n"


class ClientDaemon(Daemon):
    """The program."""

    def __init__(self, options: Options, config: ClientConfig, epochs: Epochs, report: Report, reactor: Any) -> None:
        super().__init__(options, config.logging, report, reactor)
        self.config = config
        random, clock = SystemRandom(), SystemClock()
        self._workers = ThreadWorkers(reactor)
        process = os.getpid().to_bytes(8, "big") + int(time.time()).to_bytes(8, "big")
        transports = proxied_transports(reactor, config.proxy, f"session {random.below(2**64)}", process)
        context = Context(reactor=reactor, clock=clock, random=random, workers=self._workers)
        self.multiplexer = Multiplexer(context, transports, ClientCore(config, epochs, clock, random))
        self.factory = AppFactory(self.multiplexer, reactor)
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Open the listener at once; the network may come later."""
        if self.config.listen is not None:
            self._port = await listen(self.reactor, self.config.listen, self.factory)
            notice(self.log, "applications connect to {address}", address=self.config.listen.address)
        self._workers.start()
        self.multiplexer.start()

    async def stop(self) -> None:
        """Tell the applications, close the listener, the connections and the session."""
        if self._port is not None:
            await maybeDeferred(self._port.stopListening)
        self.multiplexer.shut_down()
        self.factory.close_all()
        await self._farewell()
        await self.multiplexer.stop()
        self._workers.stop()

    async def _farewell(self) -> None:
        """Until all connections are closed, or the time is over."""
        for _ in range(20):
            if not self.factory.connections:
                return
            pause: Deferred[None] = deferLater(self.reactor, FAREWELL / 20)
            await pause


def makeService(options: Options) -> IService:
    """Read the configuration and compose; nothing is opened before the service starts."""
    from twisted.internet import reactor  # noqa: PLC0415 - the front chooses the reactor

    config, report = read_config(options, load_client)
    try:
        epochs = epochs_of(config.epoch_duration, os.environ, report)
    except KatzentwistError as e:
        die(f"failed to spawn server instance: {e}")
    return ClientDaemon(options, config, epochs, report, reactor)
