"""``twistd katzenmix``: a mix, gateway, service node or Provider, as its file says (spec: node 1.1, provider 9)."""

from __future__ import annotations

import os
from typing import NoReturn

import attrs
from twisted.application.service import IService
from twisted.logger import Logger

from katzentwist.config.node import NodeConfig
from katzentwist.config.schema import Report
from katzentwist.errors import KatzentwistError
from katzentwist.mix.announcement import announce
from katzentwist.mix.service import NodeDaemon, load_identities
from katzentwist.node.extras import load_node
from katzentwist.node.logging import LogFile
from katzentwist.node.options import GeneratingOptions, die, read_config
from katzentwist.node.startup import epochs_of


class Options(GeneratingOptions):
    """The command line."""

    program = "katzenmix"
    summary = "A node of a Katzenpost mix network: mix, gateway, service node or Provider."
    default_files = ("katzenpost.toml",)


def load(text: str) -> tuple[NodeConfig | None, Report]:
    """The configuration of this host from the text of its file."""
    return load_node(text)


def generate(config: NodeConfig) -> NoReturn:
    """``-g``: make the missing keys, show them as the start does (whatever the level), end."""
    os.umask(0o077)
    try:
        identities = load_identities(config)
        logs = [LogFile(attrs.evolve(config.logging, disable=False, file="", level="NOTICE"))]
        if config.logging.file and not config.logging.disable:
            logs.append(LogFile(config.logging))
    except (KatzentwistError, OSError) as e:
        die(f"failed to spawn server instance: {e}")
    for log in logs:
        announce(Logger("server", observer=log), config, identities)
        log.close()
    raise SystemExit(0)


def makeService(options: Options) -> IService:
    """Read the configuration and compose; nothing is opened before the service starts."""
    from twisted.internet import reactor  # noqa: PLC0415 - the front chooses the reactor

    config, report = read_config(options, load)
    if options["generate-only"] or config.debug.generate_only:
        generate(config)
    try:
        epochs = epochs_of(config.epoch_duration, os.environ, report)
    except KatzentwistError as e:
        die(f"failed to spawn server instance: {e}")
    return NodeDaemon(options, config, epochs, report, reactor)
