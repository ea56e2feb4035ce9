"""``twistd katzendirauth``: the nonvoting directory authority (spec: pki 10.6, 12.1; design 2)."""

from __future__ import annotations

import os
from typing import Any

from twisted.application.service import IService

import katzentwist
from katzentwist.clock import Epochs, SystemClock
from katzentwist.config import authority
from katzentwist.config.authority import AuthorityConfig
from katzentwist.config.schema import Report
from katzentwist.dirauth.service import AuthorityService
from katzentwist.errors import KatzentwistError
from katzentwist.logger import notice
from katzentwist.net.owner import Context
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.keyfiles import KeyPair, prepare_data_dir
from katzentwist.node.options import GeneratingOptions, die, read_config
from katzentwist.node.startup import epochs_of, key_lines, load_pairs, local_ips, read_text
from katzentwist.node.tapbase import Daemon
from katzentwist.randomness import SystemRandom
from katzentwist.status.metrics import AUTHORITY_COUNTERS, Metrics
from katzentwist.status.web import MetricsServer


class Options(GeneratingOptions):
    """The command line."""

    program = "katzendirauth"
    summary = "The nonvoting directory authority of a Katzenpost mix network."
    default_files = ("authority.toml", "katzenpost-authority.toml")


def load_keys(config: AuthorityConfig) -> tuple[KeyPair, KeyPair]:
    """The identity and link key pairs; made if missing.

    :raises KatzentwistError: the data directory or a key file is not as it must be.
    """
    folder = prepare_data_dir(config.data_dir)
    return load_pairs(folder, config.signature_scheme, config.wire_kem, SystemRandom())


class AuthorityDaemon(Daemon):
    """The root service."""

    name = "katzendirauth"

    def __init__(self, options: Options, config: AuthorityConfig, epochs: Epochs, report: Report, reactor: Any) -> None:
        super().__init__(options, config.logging, report, reactor)
        self._config, self._epochs = config, epochs
        self._workers = ThreadWorkers(reactor)
        self._authority: AuthorityService | None = None
        self._metrics = Metrics(described=AUTHORITY_COUNTERS, described_summaries={})
        self._metrics_server: MetricsServer | None = None

    def before_log(self) -> None:
        """The log file may lie in the data directory."""
        prepare_data_dir(self._config.data_dir)

    def prepare(self) -> None:
        """Data directory and keys."""
        config = self._config
        identity, link = load_keys(config)
        notice(self.log, "katzentwist {version}, nonvoting directory authority", version=katzentwist.__version__)
        notice(self.log, "This software is experimental: do not depend on it for strong security or anonymity.")
        for line in key_lines(config.identifier, identity, link):
            notice(self.log, "{line}", line=line)
        self.log.info("geometry:\n{geometry}", geometry=config.geometry.toml())
        context = Context(reactor=self.reactor, clock=SystemClock(), random=SystemRandom(), workers=self._workers)
        self._authority = AuthorityService(
            config,
            self._epochs,
            identity=identity,
            link=link,
            context=context,
            transports=Transports(self.reactor),
            call_in_reactor=self.reactor.callFromThread,
            fail=self.fail,
            metrics=self._metrics,
        )
        self._workers.start()

    async def start(self) -> None:
        """Store and listeners."""
        if self._config.metrics_address is not None:
            self._metrics_server = MetricsServer(self.reactor, self._config.metrics_address, self._metrics)
            await self._metrics_server.start()
        if self._authority is not None:
            await self._authority.start()

    async def stop(self) -> None:
        """Authority first, threads last."""
        if self._authority is not None:
            await self._authority.stopService()
            self._workers.stop()
        if self._metrics_server is not None:
            await self._metrics_server.stop()


def generate(config: AuthorityConfig) -> None:
    """``-g``: make what is missing, print it, and end the program."""
    os.umask(0o077)
    try:
        identity, link = load_keys(config)
    except KatzentwistError as error:
        die(f"failed to spawn server instance: {error}")
    print("\n".join(key_lines(config.identifier, identity, link)))  # noqa: T201
    raise SystemExit(0)


def makeService(options: Options) -> IService:
    """Read the configuration and compose; nothing is opened before the service starts."""
    from twisted.internet import reactor  # noqa: PLC0415 - the front chooses the reactor

    generate_only = bool(options["generate-only"])

    def load(text: str) -> tuple[AuthorityConfig | None, Report]:
        return authority.load(text, local_ips=local_ips(), read_file=None if generate_only else read_text)

    config, report = read_config(options, load)
    if config.generate_only:
        generate(config)
    try:
        epochs = epochs_of(config.epoch_duration, os.environ, report)
    except KatzentwistError as error:
        die(f"failed to spawn server instance: {error}")
    return AuthorityDaemon(options, config, epochs, report, reactor)
