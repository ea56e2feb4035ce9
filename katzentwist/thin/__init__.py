"""The thin client library (spec: client 16), and the protocol that the daemon speaks too.

====================================  =================================
:class:`katzentwist.thin.ThinClient`  for Twisted: Deferreds
:mod:`katzentwist.thin.aio`           for asyncio: coroutines
:mod:`katzentwist.thin.blocking`      for plain scripts: waits
====================================  =================================
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from katzentwist.thin.client import EventSink, ThinClient
    from katzentwist.thin.config import Config
    from katzentwist.thin.errors import (
        LostError,
        NotSentError,
        OverdueError,
        RefusedError,
        ServiceNotFoundError,
        ThinClientError,
        ThinClientOfflineError,
        error_text,
    )
    from katzentwist.thin.events import (
        ConnectionStatusEvent,
        DaemonDisconnected,
        Event,
        MessageIDGarbageCollected,
        MessageReplyEvent,
        MessageSentEvent,
        NewPKIDocumentEvent,
        ShutdownEvent,
    )
    from katzentwist.thin.services import Geometry, ServiceDescriptor, blake2_256_sum, find_services

_WHERE = {
    "client": ("EventSink", "ThinClient"),
    "config": ("Config",),
    "errors": (
        "LostError",
        "NotSentError",
        "OverdueError",
        "RefusedError",
        "ServiceNotFoundError",
        "ThinClientError",
        "ThinClientOfflineError",
        "error_text",
    ),
    "events": (
        "ConnectionStatusEvent",
        "DaemonDisconnected",
        "Event",
        "MessageIDGarbageCollected",
        "MessageReplyEvent",
        "MessageSentEvent",
        "NewPKIDocumentEvent",
        "ShutdownEvent",
    ),
    "services": ("Geometry", "ServiceDescriptor", "blake2_256_sum", "find_services"),
}
_MODULES = {name: module for module, names in _WHERE.items() for name in names}

__all__ = [
    "Config",
    "ConnectionStatusEvent",
    "DaemonDisconnected",
    "Event",
    "EventSink",
    "Geometry",
    "LostError",
    "MessageIDGarbageCollected",
    "MessageReplyEvent",
    "MessageSentEvent",
    "NewPKIDocumentEvent",
    "NotSentError",
    "OverdueError",
    "RefusedError",
    "ServiceDescriptor",
    "ServiceNotFoundError",
    "ShutdownEvent",
    "ThinClient",
    "ThinClientError",
    "ThinClientOfflineError",
    "blake2_256_sum",
    "error_text",
    "find_services",
]


def __getattr__(name: str) -> Any:
    """Load a name when it is asked for: the daemon needs the protocol only."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"katzentwist.thin.{_MODULES[name]}"), name)
    if name in ("aio", "blocking", "protocol"):
        return importlib.import_module(f"katzentwist.thin.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
