"""What the faces of the library have in common: everything that needs no waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from katzentwist.logger import ModuleLogger
from katzentwist.randomness import SystemRandom
from katzentwist.thin._core import Operation, ThinCore
from katzentwist.thin.config import Config, check_names
from katzentwist.thin.events import CALLBACKS, Event, NewPKIDocumentEvent
from katzentwist.thin.services import Geometry, ServiceDescriptor

Callback = Callable[[Any], Any]
DEFAULT_TIMEOUT = 30.0


class Face:
    """The methods of spec client 16.1 that answer at once; those that wait are in :mod:`katzentwist.thin._calls`.

    :param config: a :class:`~katzentwist.thin.config.Config`, or the path of a ``thinclient.toml``.
    :param callbacks: plain functions or coroutine functions of one argument, by the names of client 16.3.
    """

    log = ModuleLogger("thin")

    def __init__(self, config: Any, **callbacks: Callback | None) -> None:
        check_names(callbacks)
        self.config = Config.of(config)
        self._callbacks = {**self.config.callbacks, **{n: c for n, c in callbacks.items() if c is not None}}
        self._core = ThinCore(SystemRandom())

    @property
    def geometry(self) -> Geometry | None:
        """The Sphinx geometry; its UserForwardPayloadLength is the largest payload."""
        return self._core.geometry

    @property
    def pigeonhole_geometry(self) -> Mapping[str, Any] | None:
        """As the daemon tells it."""
        return self._core.pigeonhole_geometry

    @property
    def app_id(self) -> bytes:
        """What the daemon calls this application."""
        return self._core.app_id

    @property
    def features(self) -> tuple[str, ...]:
        """What the daemon offers beyond the published protocol; ``arq`` for reliable messages."""
        return self._core.features

    @property
    def late_replies(self) -> int:
        """How many replies came after their caller had given up."""
        return self._core.late_replies

    def is_connected(self) -> bool:
        """Whether the daemon has a connection to the mix network."""
        return self._core.is_connected

    def pki_document(self) -> dict[str, Any] | None:
        """The current PKI document; None before the first one."""
        return self._core.pki_document()

    def pki_document_for_epoch(self, epoch: int) -> dict[str, Any] | None:
        """The document of an epoch if it is cached, else the current one."""
        return self._core.pki_document_for_epoch(epoch)

    def get_services(self, *document_and_capability: Any) -> list[ServiceDescriptor]:
        """``get_services(capability)`` or ``get_services(doc, capability)``.

        :raises ServiceNotFoundError: nobody offers it.
        """
        return self._core.get_services(*document_and_capability)

    def get_service(self, *document_and_name: Any) -> ServiceDescriptor:
        """``get_service(name)`` or ``get_service(doc, name)``: one of them at random.

        :raises ServiceNotFoundError: nobody offers it.
        """
        return self._core.get_service(*document_and_name)

    def new_surb_id(self) -> bytes:
        """16 random bytes that name a message and its reply."""
        return self._core.new_surb_id()

    def new_message_id(self) -> bytes:
        """16 random bytes that name a reliable message."""
        return self._core.new_message_id()

    def new_query_id(self) -> bytes:
        """16 random bytes."""
        return self._core.new_message_id()

    # For the calls that wait: what each face does in its own way ------------------------------------------------------

    def _flush(self) -> None:
        """Write what the core has to send."""
        raise NotImplementedError

    async def _wait(self, operation: Operation, seconds: float | None) -> Any:
        """Write, and wait for the value of an operation.

        :raises OverdueError: it did not come in time.
        :raises ThinClientError: it failed.
        """
        raise NotImplementedError

    def _callbacks_for(self, event: Event) -> list[tuple[Callback, Any]]:
        """(callback, argument) for an event."""
        out: list[tuple[Callback, Any]] = []
        for name in CALLBACKS.get(type(event), ()):
            callback = self._callbacks.get(name)
            if callback is None:
                continue
            if name == "on_new_document":
                if isinstance(event, NewPKIDocumentEvent) and event.document is not None:
                    out.append((callback, event.document))
            else:
                out.append((callback, event))
        return out
