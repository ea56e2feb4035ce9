"""What goes into building a packet and what comes out of unwrapping one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import attrs

from katzentwist.sphinx.commands import Command


def _as_tuple(commands: Iterable[Command]) -> tuple[Command, ...]:
    return tuple(commands)


@attrs.frozen
class PathHop:
    """One hop of a path.

    :ivar id: the node's id, 32 bytes.
    :ivar public_key: its mix key, of the geometry's NIKE or KEM.
    :ivar commands: its commands without the next node hop, which the builder adds.
    """

    id: bytes
    public_key: bytes = attrs.field(repr=False)
    commands: tuple[Command, ...] = attrs.field(converter=_as_tuple, default=())


@attrs.frozen
class Unwrapped:
    """What one hop finds in a packet (spec: sphinx 9).

    :ivar payload: at the last hop the payload without its tag; with a SURB reply command the whole decrypted payload,
        tag included; None when the packet goes on.
    :ivar replay_tag: 32 bytes.
    :ivar next_packet: the packet for the next hop, None at the last hop.
    """

    payload: bytes | None = attrs.field(repr=False)
    replay_tag: bytes
    commands: tuple[Command, ...]
    next_packet: bytes | None = attrs.field(repr=False)


NO_KEY = -1
"""Key index of a packet that no key unwraps."""

BatchResult: TypeAlias = tuple[int, bytes | None, int, bytes | str | None, int | bytes | None, bytes | None]
"""(key index, replay tag, kind, a, b, c); kind is a
:class:`~katzentwist.sphinx.commands.Kind`, and by it a, b and c are

===========  ===========  ======================  ==============================
kind         a            b                       c
===========  ===========  ======================  ==============================
FORWARD      next hop id  delay in ms             next packet
TO_USER      recipient    delay in ms or None     payload without its tag
SURB_REPLY   recipient    SURB id                 whole payload, tag included
REDUNDANT    error text   None                    None
SENSELESS    error text   None                    None
INVALID      error text   None                    None; key index -1
===========  ===========  ======================  ==============================
"""
