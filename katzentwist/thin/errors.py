"""How a send can end badly (spec: client 16.3), and what an error code of the daemon means (spec: client 12)."""

from __future__ import annotations

from typing import Final

from katzentwist.errors import KatzentwistError

_TEXTS: Final = (
    "Success",
    "Connection lost",
    "Timeout",
    "Invalid request",
    "Internal error",
    "Maximum retries exceeded",
    "Invalid channel",
    "Channel not found",
    "Permission denied",
    "Invalid payload",
    "Service unavailable",
    "Duplicate capability",
    "Courier cache corruption",
    "Propagation error",
    "Invalid write capability",
    "Invalid read capability",
    "Invalid resume write channel request",
    "Invalid resume read channel request",
    "Impossible hash error",
    "Failed to create new write capability",
    "Failed to create new stateful writer",
    "Capability already in use",
    "MKEM decryption failed",
    "BACAP decryption failed",
    "Start resending cancelled",
    "Invalid tombstone signature",
    "Copy command failed",
    "Payload too large",
    "Voucher payload does not hash to the voucher",
    "Voucher signed please-add did not verify",
    "Voucher sealed reply could not be opened",
    "Courier rejected the envelope as malformed",
    "Courier rejected the envelope: replica epoch outside tolerance window",
)


def error_text(code: int) -> str:
    """What an error code says.

    >>> error_text(10)
    'Service unavailable'
    >>> error_text(99)
    'Unknown thin client error code: 99'
    """
    return _TEXTS[code] if 0 <= code < len(_TEXTS) else f"Unknown thin client error code: {code}"


class ThinClientError(KatzentwistError):
    """Root of what the thin client raises."""


class NotSentError(ThinClientError):
    """Nothing left: the daemon is not connected, or the socket ended before the request was written."""


class ThinClientOfflineError(NotSentError):
    """The daemon has no connection to the mix network."""


class RefusedError(ThinClientError):
    """The daemon said no; the text is its reason.

    :ivar code: its error code, 0 if it gave a text only.
    """

    def __init__(self, message: str, code: int = 0) -> None:
        super().__init__(message)
        self.code = code


class OverdueError(ThinClientError):
    """It was sent, and no reply came within the caller's time."""


class LostError(ThinClientError):
    """Nobody knows: the connection to the daemon ended, the daemon was restarted, or all its tries are used up."""


class ServiceNotFoundError(ThinClientError):
    """No node of the document offers the service."""

    def __init__(self, name: str) -> None:
        super().__init__(f"service not found in pki doc: {name}")
