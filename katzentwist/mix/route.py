"""Where an unwrapped packet goes (spec: node 4.3 to 4.5). Pure functions."""

from __future__ import annotations

import enum

from katzentwist.config.halves import Kind as NodeKind
from katzentwist.mix.drops import DropReason
from katzentwist.sphinx.commands import Kind

MILLISECOND = 0.001


class Fate(enum.Enum):
    """What happens next to a packet that was not dropped."""

    SCHEDULER = "scheduler"
    GATEWAY = "gateway"
    SERVICE = "service"
    DECOY = "decoy"


def route(  # noqa: PLR0911 - one return per row of the table
    node: NodeKind,
    kind: Kind,
    *,
    has_payload: bool,
    recipient: bytes | None,
    from_client: bool,
    decoy_id: bytes,
) -> Fate | DropReason:
    """The first row of the table in 4.4 that matches."""
    if kind in (Kind.INVALID, Kind.REDUNDANT):
        return DropReason.UNWRAP_FAILED
    if kind is Kind.FORWARD:
        if has_payload:
            return DropReason.UNWRAP_PAYLOAD_UNEXPECTED
        return DropReason.PROVIDER_FORWARD_FROM_MIX if node is NodeKind.SERVICE else Fate.SCHEDULER
    if from_client and node is NodeKind.GATEWAY:
        return DropReason.CLIENT_TO_LOCAL_USER
    if kind is Kind.SURB_REPLY and recipient == decoy_id:
        return Fate.DECOY
    if node is NodeKind.MIX:
        return DropReason.MIX_RECEIVED_NON_FORWARD
    if recipient is None:
        return DropReason.INVALID_PACKET
    return Fate.GATEWAY if node is NodeKind.GATEWAY else Fate.SERVICE


def forward_delay(delay_ms: int, dwell: float, period: float) -> float | DropReason:
    """Seconds that a forward packet still has to wait (spec: node 4.5).

    :param dwell: seconds since its arrival.
    :param period: the epoch duration in seconds.
    """
    wanted = delay_ms * MILLISECOND
    if wanted > 3 * period:
        return DropReason.DELAY_IMPOSSIBLE
    if wanted > dwell:
        return wanted - dwell
    if delay_ms == 0:
        return MILLISECOND - dwell if dwell < MILLISECOND else DropReason.ZERO_DELAY_EXCESSIVE_DWELL
    return MILLISECOND
