"""The other end of the management socket: what ``katzentwist manage`` talks with (spec: node 9). Blocking."""

from __future__ import annotations

import socket
from pathlib import Path
from types import TracebackType
from typing import Final

import attrs

from katzentwist.errors import KatzentwistError
from katzentwist.management._core import MAX_LINE

GREETING_LIMIT: Final = 10.0
REPLY_LIMIT: Final = 120.0
"""Seconds for one reply: starting a plugin may take more than a minute."""
SOCKET_NAME: Final = "management_sock"
"""The socket's name in a DataDir, unless the configuration gives another."""


class ConsoleError(KatzentwistError):
    """There is no node behind the socket, or it does not speak the protocol."""


@attrs.frozen
class Answer:
    """One reply of the node."""

    code: int
    text: str

    @property
    def good(self) -> bool:
        """Whether the command was done."""
        return self.code == 250


class Console:
    """A connection; a context manager.

    :raises ConsoleError: by every method, when the node can not be talked to.
    """

    def __init__(self, path: Path) -> None:
        self.path = path / SOCKET_NAME if path.is_dir() else path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._buffer = b""
        try:
            self._socket.settimeout(GREETING_LIMIT)
            self._socket.connect(str(self.path))
        except OSError as e:
            self._socket.close()
            raise ConsoleError(
                f"can not connect to '{self.path}': {e.strerror or e}; is the node running, with [Management] Enable?"
            ) from e
        try:
            self.greeting = self._reply()
            if self.greeting is None or self.greeting.code != 220:
                raise ConsoleError(f"'{self.path}' is no management socket")
        except ConsoleError:
            self._socket.close()
            raise
        self._socket.settimeout(REPLY_LIMIT)

    def __enter__(self) -> Console:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._socket.close()

    def ask(self, command: str) -> Answer | None:
        """Send one command; None when the node closed the connection without a word, as for SHUTDOWN."""
        try:
            self._socket.sendall(command.encode("utf-8", "surrogateescape") + b"\r\n")
        except OSError as e:
            raise ConsoleError(f"the connection broke: {e.strerror or e}") from e
        return self._reply()

    def _reply(self) -> Answer | None:
        while b"\n" not in self._buffer:
            try:
                data = self._socket.recv(4096)
            except TimeoutError as e:
                raise ConsoleError("the node does not answer") from e
            except OSError as e:
                raise ConsoleError(f"the connection broke: {e.strerror or e}") from e
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > MAX_LINE:
                raise ConsoleError("the node sent a line that is too long")
        line, _, self._buffer = self._buffer.partition(b"\n")
        code, _, text = line.decode("utf-8", "replace").rstrip("\r").partition(" ")
        if not (len(code) == 3 and code.isdigit()):
            raise ConsoleError(f"unexpected reply: {line[:80]!r}")
        return Answer(int(code), text)
