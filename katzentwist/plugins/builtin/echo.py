"""``echo``: gives back what it gets (spec: node 7.5, provider 6.1)."""

from __future__ import annotations

from typing import Any

from zope.interface import implementer

from katzentwist.interfaces import IKaetzchen


@implementer(IKaetzchen)
class Echo:
    """The user payload unchanged, padding included; nothing without a SURB."""

    def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        """The reply."""
        return payload if has_surb else None

    def parameters(self) -> dict[str, Any]:
        """Nothing beside the endpoint."""
        return {}


@implementer(IKaetzchen)
class Loop(Echo):
    """``loop`` of the oldest Providers: an empty reply."""

    def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        """The reply."""
        return b"" if has_surb else None
