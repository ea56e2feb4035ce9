"""Routing commands: one hop's instructions (spec: sphinx 6), and the kinds of packet they make (spec: 12).

====  ==============  =========================  =====
id    command         body                       total
====  ==============  =========================  =====
00    null (end)      zeros to the end
01    next node hop   node id (32), MAC (32)     65
02    recipient       recipient id (32)          33
03    SURB reply      SURB id (16)               17
80    node delay      milliseconds, uint32       5
====  ==============  =========================  =====
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from typing import Any, ClassVar, TypeAlias

import attrs

from katzentwist.errors import SphinxError
from katzentwist.sphinx.geometry import MAC_LENGTH, NODE_ID_LENGTH, RECIPIENT_ID_LENGTH, SURB_ID_LENGTH

INVALID_COMMAND = "sphinx: invalid per-hop command"
REDUNDANT_COMMAND = "redundant command"
SENSELESS_COMMANDS = "sphinx: invalid combination of commands"


def _exactly(size: int) -> Callable[[Any, attrs.Attribute[bytes], bytes], None]:
    def check(command: object, field: attrs.Attribute[bytes], value: bytes) -> None:
        if len(value) != size:
            name = type(command).__name__
            raise SphinxError(f"sphinx: {field.name} of {name} has {len(value)} bytes instead of {size}")

    return check


@attrs.frozen
class NextNodeHop:
    """Pass the packet on to the node *id*; *mac* goes into its header."""

    code: ClassVar[int] = 0x01
    id: bytes = attrs.field(validator=_exactly(NODE_ID_LENGTH))
    mac: bytes = attrs.field(validator=_exactly(MAC_LENGTH))

    def encode(self) -> bytes:
        """65 bytes."""
        return b"\x01" + self.id + self.mac


@attrs.frozen
class Recipient:
    """Hand the payload to the service or user *id*, zero-padded to 32 bytes."""

    code: ClassVar[int] = 0x02
    id: bytes = attrs.field(validator=_exactly(RECIPIENT_ID_LENGTH))

    def encode(self) -> bytes:
        """33 bytes."""
        return b"\x02" + self.id


@attrs.frozen
class SurbReply:
    """The payload is a reply through the SURB *id*."""

    code: ClassVar[int] = 0x03
    id: bytes = attrs.field(validator=_exactly(SURB_ID_LENGTH))

    def encode(self) -> bytes:
        """17 bytes."""
        return b"\x03" + self.id


@attrs.frozen
class NodeDelay:
    """Hold the packet for *delay* milliseconds."""

    code: ClassVar[int] = 0x80
    delay: int = attrs.field()

    @delay.validator
    def _fits(self, _field: attrs.Attribute[int], value: int) -> None:
        if not 0 <= value < 2**32:
            raise SphinxError(f"sphinx: a delay of {value} ms does not fit 32 bits")

    def encode(self) -> bytes:
        """5 bytes."""
        return b"\x80" + self.delay.to_bytes(4, "big")


Command: TypeAlias = NextNodeHop | Recipient | SurbReply | NodeDelay

_PARSERS: dict[int, tuple[int, Callable[[bytes], Command]]] = {
    NextNodeHop.code: (64, lambda body: NextNodeHop(body[:32], body[32:])),
    Recipient.code: (32, Recipient),
    SurbReply.code: (16, SurbReply),
    NodeDelay.code: (4, lambda body: NodeDelay(int.from_bytes(body, "big"))),
}


def iterate(block: bytes) -> Iterator[Command]:
    """The commands of one hop's block, one by one.

    :raises SphinxError: unknown or incomplete command, or bytes other than zero after the end.
    """
    at = 0
    while at < len(block):
        code = block[at]
        if code == 0:
            if any(block[at:]):
                raise SphinxError(INVALID_COMMAND)
            return
        size, make = _PARSERS.get(code, (len(block), None))
        body = block[at + 1 : at + 1 + size]
        if make is None or len(body) != size:
            raise SphinxError(INVALID_COMMAND)
        yield make(body)
        at += 1 + size


def parse(block: bytes) -> tuple[Command, ...]:
    """All commands of a block; raises as :func:`iterate`."""
    return tuple(iterate(block))


def encode(commands: Iterable[Command]) -> bytes:
    """The commands one after the other, without padding."""
    return b"".join(command.encode() for command in commands)


class Kind(enum.IntEnum):
    """What a packet is, by its commands, after a successful unwrap; and the third field of a batch result.

    The numbers are shared with the native core.
    """

    INVALID = 0
    """It did not unwrap at all."""
    FORWARD = 1
    """Next hop and delay: for the scheduler."""
    TO_USER = 2
    """Recipient, with or without a delay: a request to a service, or a message to a user."""
    SURB_REPLY = 3
    """Recipient and SURB reply."""
    REDUNDANT = 4
    """Some command occurs twice: drop before the replay test."""
    SENSELESS = 5
    """Any other combination: drop."""


@attrs.frozen(kw_only=True)
class Routing:
    """The commands of one hop by name; None where there is none."""

    next_hop: NextNodeHop | None = None
    delay: int | None = None
    recipient: bytes | None = None
    surb_id: bytes | None = None

    @classmethod
    def from_commands(cls, commands: Iterable[Command]) -> Routing:
        """Sort commands by their type.

        :raises SphinxError: ``redundant command`` when one type occurs twice.
        """
        values: dict[str, Any] = {}
        for command in commands:
            match command:
                case NextNodeHop():
                    name, value = "next_hop", command
                case NodeDelay():
                    name, value = "delay", command.delay  # type: ignore[assignment]
                case Recipient():
                    name, value = "recipient", command.id  # type: ignore[assignment]
                case SurbReply():
                    name, value = "surb_id", command.id  # type: ignore[assignment]
            if name in values:
                raise SphinxError(REDUNDANT_COMMAND)
            values[name] = value
        return cls(**values)

    @property
    def kind(self) -> Kind:
        """FORWARD, TO_USER, SURB_REPLY or SENSELESS, by the table of section 12."""
        present = (
            self.next_hop is not None,
            self.delay is not None,
            self.recipient is not None,
            self.surb_id is not None,
        )
        return _KINDS.get(present, Kind.SENSELESS)


_KINDS = {
    (True, True, False, False): Kind.FORWARD,
    (False, True, True, False): Kind.TO_USER,
    (False, False, True, False): Kind.TO_USER,
    (False, False, True, True): Kind.SURB_REPLY,
}
