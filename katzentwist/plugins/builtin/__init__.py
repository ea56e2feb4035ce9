"""The services that need no program of their own, by capability (spec: node 7.5, provider 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from katzentwist.interfaces import IKaetzchen
from katzentwist.plugins.builtin.echo import Echo, Loop

STATELESS: Final[Mapping[str, Callable[[], IKaetzchen]]] = {"echo": Echo, "testdest": Echo, "loop": Loop}
KEYSERVER: Final = "keyserver"
"""Needs the user database of a Provider."""


def unsupported(capability: str) -> str:
    """What to say of a capability that is none of these, nor one of an installed package."""
    known = ", ".join((*STATELESS, f"{KEYSERVER} (on a Provider)"))
    return f"provider: Kaetzchen: Unsupported capability: '{capability}'; one of {known}"
