"""Where applications connect: TCP, UNIX sockets, abstract names (spec: client 2.2)."""

from __future__ import annotations

import errno
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
    except (CannotListenError, OSError) as e:
        cause = e.socketError if isinstance(e, CannotListenError) else e
        why = getattr(cause, "strerror", None) or cause
        raise ConfigError(f"can not listen on '{where.address}': {why}; {_remedy(where, cause)}", path) from e


def _remedy(where: Socket, cause: Exception) -> str:
    code = getattr(cause, "errno", None)
    if where.network != "unix" or where.address.startswith("@"):
        return "is another daemon running?" if code == errno.EADDRINUSE else "choose another address"
    if code == errno.EADDRINUSE:
        in_use = "is another daemon running?"
        return in_use if _is_socket(where.address) else "something that is no socket is there already"
    if code == errno.ENOENT:
        return "make its folder first"
    if code == errno.EACCES:
        return "its folder must be writable for the daemon"
    return "choose another path"


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.lstat(path).st_mode)
    except OSError:
        return False


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
    if not _is_socket(path):
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            os.unlink(path)  # noqa: PTH108 - a path as the configuration spells it
        except OSError:
            return  # somebody listens but is busy: the bind will say so
