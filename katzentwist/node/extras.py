"""What a configuration needs of this host: optional Python packages, services, programs of plugins.

A mistake of the file if they are not there (design D3), which a look at the file tells as well as the start.
"""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterable
from typing import Final

from katzentwist.config import client, node
from katzentwist.config.addresses import Address
from katzentwist.config.client import ClientConfig
from katzentwist.config.halves import Kind
from katzentwist.config.node import NodeConfig
from katzentwist.config.schema import Report
from katzentwist.node.startup import local_ips, read_text
from katzentwist.plugins.builtin import KEYSERVER, STATELESS, unsupported
from katzentwist.plugins.installed import is_installed

_EXTRAS: Final = {
    "sql": ("postgres", ("txpostgres", "psycopg2")),
    "extern": ("web", ("treq",)),
    "quic": ("quic", ("aioquic",)),
}


def load_node(text: str) -> tuple[NodeConfig | None, Report]:
    """The node configuration of this host from the text of its file, for the start and for those that only look.

    :returns: the configuration is None exactly when the report has errors.
    """
    config, report = node.load(text, local_ips=local_ips(), read_file=read_text)
    if config is not None:
        check_extras(config, report)
        check_services(config, report)
    return (None if report.errors else config), report


def load_client(text: str) -> tuple[ClientConfig | None, Report]:
    """The same for the file of a client: a gateway that only QUIC reaches needs its extra.

    :returns: the configuration is None exactly when the report has errors.
    """
    config, report = client.load(text)
    for number, gateway in enumerate(config.gateways if config is not None else ()):
        if all(address.scheme == "quic" for address in gateway.addresses):
            _check_quic(gateway.addresses, f"PinnedGateways.Gateways[{number}].Addresses", report)
    return (None if report.errors else config), report


def missing_extra(feature: str) -> str:
    """What to say if the packages of a back end or scheme are not installed; empty if nothing is missing."""
    extra, modules = _EXTRAS.get(feature, ("", ()))
    if all(importlib.util.find_spec(module) is not None for module in modules):
        return ""
    return f"{feature!r} needs the {extra} extra (pip install katzentwist[{extra}])"


def check_extras(config: NodeConfig, report: Report) -> None:
    """Note every part of *config* that needs an extra which is not installed."""
    where = "Provider" if config.user_db is not None else "Gateway"
    for database, path in ((config.user_db, f"{where}.UserDB"), (config.spool_db, f"{where}.SpoolDB")):
        if database is not None and (why := missing_extra(database.backend)):
            report.error(f"the back end {why}", f"{path}.Backend")
    for half in config.halves:
        second = half.kind is Kind.SERVICE and len(config.halves) > 1
        _check_quic(half.listen, "Provider.ServiceAddresses" if second else "Server.Addresses", report)
    for number, authority in enumerate(config.authorities):
        if all(address.scheme == "quic" for address in authority.addresses):
            _check_quic(authority.addresses, f"PKI.Voting.Authorities[{number}].Addresses", report)


def check_services(config: NodeConfig, report: Report) -> None:
    """Note every service that is not disabled and can not run.

    One that nobody brings is a mistake. A plugin whose program is not there yet is no mistake of the file, so that it
    can be written, and ``-g`` run, before the plugin is installed; the start will fail.
    """
    for service in config.services:
        capability = service.capability
        if service.disable:
            continue
        if service.command:
            if shutil.which(service.command) is None:
                report.warn(
                    f"{service.path}.Command: can not execute '{service.command}': no such program; the start will fail"
                )
        elif not (
            capability in STATELESS
            or (capability == KEYSERVER and config.user_db is not None)
            or is_installed(capability)
        ):
            report.error(unsupported(capability), f"{service.path}.Capability")


def _check_quic(addresses: Iterable[Address], path: str, report: Report) -> None:
    for address in addresses:
        if address.scheme == "quic" and (why := missing_extra("quic")):
            report.error(f"{address.url}: the scheme {why}", path)
