"""Where applications connect: TCP, UNIX sockets, abstract names (spec: client 2.2)."""

from __future__ import annotations

import os
import socket
import stat
from typing import Any

from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint, UNIXServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort, IStreamServerEndpoint
from twisted.internet.protocol import Factory

from katzentwist.config.addresses import check_hostport
from katzentwist.config.client import Socket
from katzentwist.errors import ConfigError

BACKLOG = 128


async def listen(reactor: Any, where: Socket, factory: Factory) -> IListeningPort:
    """Open the listener.

    :raises ConfigError: naming the key and the remedy.
    """
    path = "Listen.Unix.Address" if where.network == "unix" else "Listen.Tcp.Address"
    try:
        return await _endpoint(reactor, where).listen(factory)
    except CannotListenError as e:
        why = getattr(e.socketError, "strerror", None) or e.socketError
        raise ConfigError(f"can not listen on '{where.address}': {why}; is another daemon running?", path) from e
    except OSError as e:
        raise ConfigError(f"can not listen on '{where.address}': {e.strerror or e}", path) from e


def _endpoint(reactor: Any, where: Socket) -> IStreamServerEndpoint:
    if where.network == "unix":
        if where.address.startswith("@"):
            return UNIXServerEndpoint(reactor, "\0" + where.address[1:], backlog=BACKLOG)
        remove_stale(where.address)
        return UNIXServerEndpoint(reactor, where.address, backlog=BACKLOG, mode=0o600)
    host, port = check_hostport(where.address, allow_hostnames=True)
    family = {"tcp4": socket.AF_INET, "tcp6": socket.AF_INET6}.get(where.network, socket.AF_UNSPEC)
    found = socket.getaddrinfo(host or None, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    # A name of several addresses: IPv4 first, as applications dial it.
    chosen, *_, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
    endpoint = TCP6ServerEndpoint if chosen == socket.AF_INET6 else TCP4ServerEndpoint
    return endpoint(reactor, port, backlog=BACKLOG, interface=str(address[0]))


def remove_stale(path: str) -> None:
    """Remove the socket that a daemon left behind which was killed; nothing else is ever removed."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - a path as the configuration spells it
        except OSError:
            return  # somebody listens but is busy: the bind will say so
