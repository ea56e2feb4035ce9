"""Builds what a node has beyond a mix: databases, services, clients."""

from __future__ import annotations

import os
from collections.abc import Callable

import attrs

from katzentwist.config.halves import Kind
from katzentwist.config.node import NodeConfig
from katzentwist.config.services import Service
from katzentwist.errors import ConfigError
from katzentwist.interfaces import IKaetzchen
from katzentwist.node.runtime import Runtime
from katzentwist.pki.document import SignedDocument
from katzentwist.plugins.builtin import KEYSERVER, STATELESS, unsupported
from katzentwist.plugins.builtin.keyserver import KeyServer
from katzentwist.plugins.inprocess import InProcess
from katzentwist.plugins.installed import installed
from katzentwist.plugins.registry import IService, Registry
from katzentwist.plugins.supervisor import PluginService, Surroundings
from katzentwist.provider.clients import Clients
from katzentwist.provider.end import PacketEnd
from katzentwist.provider.mailbox import Mailbox
from katzentwist.provider.ratelimit import LimitSource
from katzentwist.provider.stores import build_stores
from katzentwist.wire.codes import ConsensusCode


@attrs.frozen(kw_only=True)
class Parts:
    """What the halves of a Provider share; all None for a mix."""

    end: PacketEnd | None = None
    clients: Clients | None = None
    mailbox: Mailbox | None = None
    services: Registry | None = None


def build(runtime: Runtime, document: Callable[[int], SignedDocument | ConsensusCode]) -> Parts:
    """The parts that the configuration asks for.

    :param document: what to tell a client who asks for the document of an epoch.
    :raises ConfigError: an unknown service or a back end that is not there.
    """
    config = runtime.config
    is_service, is_gateway = config.half(Kind.SERVICE) is not None, config.half(Kind.GATEWAY) is not None
    if not (is_service or is_gateway):
        return Parts()
    mailbox = _mailbox(runtime, config) if config.spool_db is not None else None
    services = _services(runtime, config, mailbox) if is_service else None
    clients = None
    if is_gateway and mailbox is not None:
        clients = Clients(runtime, mailbox, LimitSource(runtime.debug.disable_rate_limit), document)
    return Parts(end=PacketEnd(runtime, services, mailbox), clients=clients, mailbox=mailbox, services=services)


def _mailbox(runtime: Runtime, config: NodeConfig) -> Mailbox:
    if config.spool_db is None:
        raise ConfigError("no spool is configured", "Provider.SpoolDB")
    users, spool, policy = build_stores(runtime, config, config.spool_db)
    return Mailbox(
        spool,
        users,
        policy,
        seconds=runtime.clock.monotonic,
        patience=runtime.debug.gateway_delay / 1000,
        elsewhere=config.user_db is not None and config.user_db.backend == "extern",
    )


def _builtin(service: Service, mailbox: Mailbox | None) -> IKaetzchen:
    capability = service.capability
    if capability == KEYSERVER and mailbox is not None and mailbox.users is not None:
        return KeyServer(mailbox.users)
    if capability not in STATELESS:
        if (other := installed(capability, service.config)) is not None:
            return other
        raise ConfigError(unsupported(capability), f"{service.path}.Capability")
    return STATELESS[capability]()


def _services(runtime: Runtime, config: NodeConfig, mailbox: Mailbox | None) -> Registry:
    around = Surroundings(
        reactor=runtime.reactor,
        clock=runtime.clock,
        metrics=runtime.metrics,
        patience=runtime.debug.kaetzchen_delay / 1000,
        period=runtime.epochs.period,
        response_size=runtime.geometry.user_forward_payload_length,
        environment=os.environ,
    )

    def make(service: Service) -> IService:
        if service.command:
            return PluginService(service, around, lambda alive: registry.set_alive(service.capability, alive))
        return InProcess(
            _builtin(service, mailbox),
            runtime.metrics,
            runtime.debug.num_kaetzchen_workers,
            runtime.debug.kaetzchen_delay / 1000,
            runtime.clock.monotonic,
        )

    registry = Registry(config.services, make)
    return registry
