"""A node process: one half, or the two halves of a Provider, with what they share (design D4)."""

from __future__ import annotations

import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import maybeDeferred

import katzentwist
from katzentwist.clock import Epochs, SystemClock
from katzentwist.config.addresses import descriptor_map
from katzentwist.config.debug import with_runtime
from katzentwist.config.halves import Half as HalfConfig
from katzentwist.config.halves import Kind
from katzentwist.config.node import NodeConfig
from katzentwist.config.schema import Report
from katzentwist.crypto import kem
from katzentwist.errors import ConfigError, KatzentwistError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.management.commands import Function, RateCommands, ServiceCommands, Table, UserCommands
from katzentwist.management.server import Management
from katzentwist.mix.announcement import announce
from katzentwist.mix.diskqueue import DiskQueue
from katzentwist.mix.drops import DropReason, drop
from katzentwist.mix.half import Half
from katzentwist.mix.mixkeys import MixKeys, default_folder, prepare_folder
from katzentwist.mix.scheduler import DelayQueue
from katzentwist.mix.selfcheck import measure
from katzentwist.net.tcp import Transports
from katzentwist.net.workers import ThreadWorkers
from katzentwist.node.identity import Identity
from katzentwist.node.keyfiles import prepare_data_dir
from katzentwist.node.options import DaemonOptions
from katzentwist.node.pkiclient import PKIClient
from katzentwist.node.runtime import Runtime
from katzentwist.node.startup import load_pairs
from katzentwist.node.tapbase import Daemon
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import SignedDocument
from katzentwist.plugins.registry import Registry
from katzentwist.provider.parts import Parts, build
from katzentwist.randomness import SystemRandom
from katzentwist.status.metrics import Metrics
from katzentwist.status.web import MetricsServer
from katzentwist.wire.codes import ConsensusCode

KEPT_EPOCHS = 10
"""Past epochs whose numbers the metrics still show."""


def load_identities(config: NodeConfig) -> list[tuple[HalfConfig, Identity]]:
    """The keys of every half; made if missing.

    :raises KatzentwistError: the data directory or a key file is not as it must be.
    """
    prepare_data_dir(config.data_dir)
    out = []
    for half in config.halves:
        folder = prepare_data_dir(half.key_dir)
        pairs = load_pairs(folder, config.signature_scheme, config.wire_kem, SystemRandom(), half.identity_key)
        out.append((half, Identity.of(*pairs)))
    return out


class PublishingHalf(Half):
    """A half with the descriptor that it uploads."""

    services: Registry | None = None
    authentication_type = ""

    def descriptor(self, epoch: int) -> Descriptor:
        """What this half says of itself for *epoch* (spec: node 3.1)."""
        self.keys.generate(epoch)
        kaetzchen = advertised = None
        if self.kind is Kind.SERVICE and self.services is not None:
            kaetzchen, advertised = self.services.advertised()
        return Descriptor(
            name=self.config.identifier,
            epoch=epoch,
            link_key=self.identity.link.public,
            mix_keys=self.keys.public(epoch),
            version="",
            addresses=self.advertised_addresses,
            kaetzchen=kaetzchen,
            load_weight=0,
            identity_key=self.identity.identity.public,
            is_gateway_node=self.kind is Kind.GATEWAY,
            is_service_node=self.kind is Kind.SERVICE,
            authentication_type=self.authentication_type,
            kaetzchen_advertized_data=advertised,
        )

    advertised_addresses: dict[str, list[str]]


def _show(half: Half) -> None:
    """Register the gauges of a half."""
    gauge = half.runtime.metrics.gauge
    gauge("outgoing_links", lambda: sum(link.connected for link in half.connector), state="up")
    gauge("outgoing_links", lambda: sum(not link.connected for link in half.connector), state="down")
    gauge("channel_usage", lambda: len(half.pipeline), channel_name="cryptoworker_incoming")
    gauge("delayed_packets", lambda: len(half.scheduler.queue))
    gauge("incoming_links", lambda: len(half.incoming.links))
    gauge("replay_tags", half.keys.tags)


def advertised_addresses(half: HalfConfig) -> dict[str, list[str]]:
    """The address map of the descriptor; names are resolved now.

    :raises ConfigError: nothing is left to advertise, or a name does not resolve.
    """
    own = [] if half.only_alternatives else [a.url for a in half.addresses]
    out = descriptor_map(own, _resolve)
    for transport, urls in half.alternatives.items():
        out.setdefault(transport, []).extend(urls)
    if not out:
        raise ConfigError("Descriptor address map is zero size.", "Server.Addresses")
    return out


def _resolve(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


@attrs.define
class _Kept:
    """Mix keys that are to outlive the process.

    :ivar taken: whether any came from the last run.
    """

    keys: MixKeys
    folder: Path
    taken: bool = False


class NodeDaemon(Daemon):
    """The root service of ``twistd katzenmix``."""

    name = "katzenmix"

    def __init__(
        self, options: DaemonOptions, config: NodeConfig, epochs: Epochs, report: Report, reactor: Any
    ) -> None:
        super().__init__(options, config.logging, report, reactor)
        self.log = ModuleLogger("server")
        self._config, self._epochs = config, epochs
        self.metrics = Metrics()
        self.halves: list[PublishingHalf] = []
        self.parts = Parts()
        self._workers = ThreadWorkers(reactor)
        self._pki: PKIClient | None = None
        self._metrics_server: MetricsServer | None = None
        self._management: Management | None = None
        self._mix_keys: list[_Kept] = []

    # Start ---------------------------------------------------------------------------------------------------------

    def before_log(self) -> None:
        """The log file may lie in the data directory (spec: node 1.2)."""
        prepare_data_dir(self._config.data_dir)

    def prepare(self) -> None:
        """Keys, and everything that needs no waiting."""
        config = self._config
        identities = load_identities(config)
        self._announce(identities)
        random = SystemRandom()
        check = measure(config.geometry, random, os.cpu_count() or 1)
        debug = with_runtime(config.debug, check.cpus, check.saturated)
        notice(
            self.log,
            "{sphinx} Sphinx workers, {kaetzchen} service workers, burst {burst}; "
            "{cpus} CPUs unwrap {rate:.0f} packets/s",
            sphinx=debug.num_sphinx_workers,
            kaetzchen=debug.num_kaetzchen_workers,
            burst=debug.scheduler_max_burst,
            cpus=check.cpus,
            rate=check.saturated,
        )
        runtime = Runtime(
            reactor=self.reactor,
            clock=SystemClock(),
            random=random,
            workers=self._workers,
            config=config,
            debug=debug,
            epochs=self._epochs,
            metrics=self.metrics,
            transports=Transports(self.reactor),
        )
        self.metrics.gauge("server_selfcheck_sphinx_ops_per_sec_solo", lambda: check.solo)
        self.metrics.gauge("server_selfcheck_sphinx_ops_per_sec_saturated", lambda: check.saturated)
        self.metrics.gauge("server_selfcheck_num_cpu", lambda: check.cpus)
        self._runtime = runtime
        self.parts = build(runtime, self._document)
        for half, identity in identities:
            own = runtime
            if len(identities) > 1:
                name = half.kind.value
                own = attrs.evolve(runtime, metrics=self.metrics.labelled(half=name), half=name)
            self.halves.append(self._half(own, half, identity))
        self._register_gauges()
        self._pki = PKIClient(runtime, self.halves, fatal=self.fail, changed=self._documents_changed)
        self._workers.start()

    def _register_gauges(self) -> None:
        """Numbers that are read when somebody looks."""
        for half in self.halves:
            _show(half)
        self.metrics.gauge("clients", lambda: len(self.parts.clients) if self.parts.clients is not None else 0)

    @property
    def pki(self) -> PKIClient:
        """The PKI worker."""
        if self._pki is None:
            raise RuntimeError("the node was not prepared")
        return self._pki

    def _announce(self, identities: list[tuple[HalfConfig, Identity]]) -> None:
        config = self._config
        notice(self.log, "katzentwist {version}", version=katzentwist.__version__)
        announce(self.log, config, identities)
        if any(authority.link_key is None for authority in config.authorities):
            notice(self.log, "no LinkPublicKey of the authority is configured: any link key is accepted from it")
        notice(self.log, "Sphinx geometry:\n{geometry}", geometry=config.geometry.toml())

    def _half(self, runtime: Runtime, config: HalfConfig, identity: Identity) -> PublishingHalf:
        keys, log = MixKeys(runtime.geometry, runtime.random), self.log.of(runtime.half)
        folder = self._mix_key_folder(config, identity)
        now = runtime.epoch()[0]
        if folder is not None:
            prepare_folder(folder)
            kept = _Kept(keys, folder)
            self._mix_keys.append(kept)
            found = keys.load(folder, now)
            kept.taken = bool(found)
            if found:
                notice(log, "mix keys of {count} epochs taken over from the last run", count=len(found))
        else:
            notice(log, "mix keys are kept in memory only: after a restart packets fail until the next documents")
        keys.generate(now)
        half = PublishingHalf(
            runtime,
            config,
            identity,
            keys,
            end=self.parts.end,
            clients=self.parts.clients if config.kind is Kind.GATEWAY else None,
            queue=self._queue(runtime, config),
        )
        half.services = self.parts.services
        half.advertised_addresses = advertised_addresses(config)
        if config.kind is Kind.GATEWAY:
            users = self._config.users
            open_door = users is None or users.ephemeral or users.trust_on_first_use
            half.authentication_type = "tofu" if open_door else "oob"
        return half

    def _queue(self, runtime: Runtime, config: HalfConfig) -> DelayQueue | None:
        """The delay queue of a half; None is the one in memory."""
        log = ModuleLogger("scheduler").of(runtime.half)
        if not runtime.debug.external_queue:
            log.info("Initializing memory queue.")
            return None
        notice(log, "Initializing external memory queue.")
        name = "external_queue.db" if config is self._config.halves[0] else "external_queue-service.db"

        def dropped(reason: DropReason, amount: int) -> None:
            drop(runtime.metrics, reason, amount)

        path = Path(self._config.data_dir) / name
        return DiskQueue(path, runtime.geometry.packet_length, dropped, runtime.debug.scheduler_slack / 1000)

    def _mix_key_folder(self, config: HalfConfig, identity: Identity) -> Path | None:
        if not self._config.persist_mix_keys:
            return None
        named = self._config.persist_mix_keys_dir
        if not named:
            return default_folder(identity.id)
        return Path(named) / "service" if config is not self._config.halves[0] else Path(named)

    async def start(self) -> None:
        """Sockets first, since they may be taken; then databases and services; then the network."""
        for step in self._steps():
            if self._stopping:  # a signal came while a plugin or a database took its time
                return
            await step()

    def _steps(self) -> Iterator[Callable[[], Awaitable[None]]]:
        """What the start does, one after the other."""
        for half in self.halves:
            yield half.listeners.start
        if self._config.metrics_address is not None:
            self._metrics_server = MetricsServer(self.reactor, self._config.metrics_address, self.metrics)
            yield self._metrics_server.start
        if self.parts.mailbox is not None:
            yield self.parts.mailbox.open
        if self.parts.services is not None:
            yield self.parts.services.start
        yield self._join
        if self._config.management_path is not None:
            name = self._config.halves[0].identifier
            path = self._config.management_path
            self._management = Management(self.reactor, path, name, self._commands(), self.shutdown)
            yield self._management.start

    async def _join(self) -> None:
        """Become a part of the network."""
        if self.parts.clients is not None:
            self.parts.clients.start()
        for half in self.halves:
            half.start()
        self.pki.start()

    def _commands(self) -> Table:
        """The management commands of this kind of node."""
        parts = self.parts
        out: dict[str, Function] = {}
        if parts.services is not None:
            out.update(ServiceCommands(parts.services).table())
        if parts.mailbox is not None and parts.mailbox.users is not None and parts.clients is not None:
            scheme = kem.by_name(self._config.wire_kem)
            policy = self._config.users
            users = UserCommands(
                parts.mailbox.users,
                parts.mailbox.spool,
                scheme,
                parts.clients.recheck_user,
                None if policy is None else policy.names,
            )
            out.update(users.table())
            out.update(RateCommands(parts.clients.limits, parts.clients.limits_changed).table())
        return out

    def _document(self, epoch: int) -> SignedDocument | ConsensusCode:
        return self.pki.document(epoch)

    def _documents_changed(self) -> None:
        """New rates for clients."""
        now = self._runtime.epoch()[0]
        self.metrics.forget_epochs(now - KEPT_EPOCHS)
        signed = self.pki.core.documents.get(now)
        if signed is not None and self.parts.clients is not None:
            document = signed.document
            self.parts.clients.limits.use_document(document.lambda_p, document.lambda_l)
            self.parts.clients.limits_changed()

    # Stop ----------------------------------------------------------------------------------------------------------

    async def stop(self) -> None:
        """In the order of node 1.7; what is still in queues is lost, as everywhere in this design.

        A step that fails keeps no other from being done: databases may be out of reach, threads must end.
        """
        if self._pki is None:
            return
        for step in self._last_steps():
            try:
                await maybeDeferred(step)
            except Exception:  # whatever it is, the stop goes on
                self.log.failure("an error while stopping")

    def _last_steps(self) -> Iterator[Callable[[], Any]]:
        if self._management is not None:
            yield self._management.stop
        yield self.pki.stop
        if self.parts.clients is not None:
            yield self.parts.clients.stop
        yield from (half.stop for half in self.halves)
        if self.parts.services is not None:
            yield self.parts.services.stop
        if self.parts.mailbox is not None:
            yield self.parts.mailbox.close
        if self._metrics_server is not None:
            yield self._metrics_server.stop
        yield self._save_mix_keys
        yield self._workers.stop

    def _save_mix_keys(self) -> None:
        for kept in self._mix_keys:
            try:
                kept.keys.save(kept.folder)
            except (OSError, KatzentwistError) as e:
                self.log.error("can not keep the mix keys: {why}", why=str(e))
        self._mix_keys.clear()
        for half in self.halves:
            half.keys.wipe()

    def abandon(self, *, started: bool) -> None:
        """Mix keys that were taken from disk go back there: after a start that was refused, for the next one."""
        self._mix_keys = [kept for kept in self._mix_keys if started or kept.taken]
        self._save_mix_keys()
        if not started and self._pki is not None:
            self._workers.stop()
