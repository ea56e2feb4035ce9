"""Write a service as a Python program (docs/plugins.md).

::

    from katzentwist.plugins import Kaetzchen, run

    class Shout(Kaetzchen):
        def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
            return payload.rstrip(b"\\0").upper()

    run(Shout())

The program speaks both shapes of the plugin protocol, so it runs under katzentwist nodes and under Go nodes, old and
new. It needs nothing of a node and no Twisted, only the standard library and cbor2.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from katzentwist.errors import PluginError
from katzentwist.plugins.framing import Items
from katzentwist.plugins.messages import PluginRequest, PluginResponse

AT_ONCE: Final = 64
"""Requests of the new shape that are served at the same time; further ones wait in the socket."""


class Kaetzchen:
    """Base class of a service. Subclasses write :meth:`handle`, as a plain or as an ``async`` method.

    :ivar config: the ``Config`` table of the node's configuration.
    """

    config: Mapping[str, str]

    def handle(self, payload: bytes, has_surb: bool) -> bytes | Awaitable[bytes | None] | None:
        """Answer one request.

        :param payload: with the zero bytes that pad it; the request must say itself where it ends.
        :param has_surb: whether an answer can reach the sender at all.
        :returns: the answer, at most as long as *payload*; None for none.
        """
        raise NotImplementedError

    def parameters(self) -> dict[str, Any]:
        """What to publish about the service, for nodes that ask."""
        return {}

    def configured(self) -> None:
        """Called once with :attr:`config` set, before the first request. An exception ends the program."""

    @staticmethod
    def log(text: str) -> None:
        """One line for the node's log, level DEBUG. Printing to standard output is not possible in a plugin."""
        if line := text.strip():
            # One write per line, and never an empty line: a Go node takes that for an error.
            os.write(2, f"{line}\n".encode("utf-8", "replace"))


def parse_config(arguments: Sequence[str]) -> dict[str, str]:
    """The ``Config`` table, which a node hands over as ``-key value`` pairs.

    :raises PluginError: the arguments are not such pairs.
    """
    if len(arguments) % 2 or not all(key.startswith("-") for key in arguments[::2]):
        raise PluginError("the arguments must be pairs: -key value")
    return {key.lstrip("-"): value for key, value in zip(arguments[::2], arguments[1::2], strict=True)}


def run(service: Kaetzchen, arguments: Sequence[str] | None = None) -> None:
    """Serve until the node closes the connection or ends the program."""
    try:
        service.config = parse_config(sys.argv[1:] if arguments is None else arguments)
        service.configured()
    except Exception as e:  # whatever the service raised: one line for the operator, not a traceback
        service.log(f"can not start: {e}")
        sys.exit(1)
    folder = Path(tempfile.mkdtemp(prefix="kaetzchen-"))  # mode 0700
    try:
        asyncio.run(_Program(service).serve(folder / "socket"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Program:
    """One connection, as a node makes it."""

    def __init__(self, service: Kaetzchen) -> None:
        self._service = service
        self._over = asyncio.Event()
        self._slots = asyncio.Semaphore(AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, path: Path) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._over.set)
        server = await asyncio.start_unix_server(self._connected, str(path))
        # Only now, since old nodes dial once.
        sys.stdout.write(f"{path}\n")
        sys.stdout.flush()
        await self._over.wait()
        server.close()
        for task in self._tasks:
            task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._converse(reader, writer)
        except PluginError as e:
            self._service.log(f"the node sent something else: {e}")
        except (ConnectionError, asyncio.CancelledError):
            pass  # gone, or ended by SIGTERM: asyncio of Python 3.11 would write a traceback into the node's log
        finally:
            self._over.set()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        items = Items()
        while data := await reader.read(65536):
            items.receive(data)
            while (item := items.take()) is not None:
                request = PluginRequest.parse(item)
                if request.new_shape:
                    await self._slots.acquire()
                    task = asyncio.create_task(self._answer_soon(request, writer))
                    self._tasks.add(task)
                    task.add_done_callback(self._tasks.discard)
                else:
                    await self._write(writer, PluginResponse(payload=await self._answer(request) or b"").encode_old())

    async def _answer_soon(self, request: PluginRequest, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                if request.is_parameters_request:
                    answer = _echoing(request, None, is_parameters_response=True, params=self._service.parameters())
                    await self._write(writer, answer.encode())
                elif (payload := await self._answer(request)) is not None and request.has_surb:
                    await self._write(writer, _echoing(request, payload).encode())
        finally:
            self._slots.release()

    async def _answer(self, request: PluginRequest) -> bytes | None:
        """What the service says; an exception costs only this request."""
        try:
            answer = self._service.handle(request.payload or b"", request.has_surb)
            return await answer if inspect.isawaitable(answer) else answer
        except Exception as e:  # the service's own mistake
            self._service.log(f"a request failed: {type(e).__name__}: {e}")
            return None

    async def _write(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        writer.write(data)
        await writer.drain()


def _echoing(request: PluginRequest, payload: bytes | None, **more: Any) -> PluginResponse:
    return PluginResponse(
        payload=payload,
        id=request.id,
        surb=request.surb,
        request_at=None if request.request_at is None else int(request.request_at),
        delay=request.delay,
        **more,
    )
