"""Wire commands: one frozen class each, their codec, and who pads what (spec: link 7).

======  ====  ===========================================
offset  size  field
======  ====  ===========================================
0       1     command id
1       1     reserved, 0
2       4     length N of the body, uint32 big endian
6       N     body
6 + N   any   padding, all zero
======  ====  ===========================================

:func:`parse` knows the session kind and treats the ids of another kind as unknown. It raises CommandError and nothing
else, whatever the bytes are. Replica commands (ids 8 to 13 and 33) are unknown here.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Self

import attrs

from katzentwist.crypto.copies import cut
from katzentwist.errors import CommandError

HEADER = 6
SURB_ID = 16


class SessionKind(enum.Enum):
    """Which ids exist on a session, and whether commands are padded."""

    MIXNET = "mixnet"
    PKI = "pki"


@attrs.frozen(kw_only=True)
class CommandSizes:
    """The sizes that the codec needs of a geometry and of the network's signature scheme."""

    packet_length: int
    """PL, bytes of a Sphinx packet."""
    payload_length: int
    """PTL + FPL, bytes of the payload in a Message."""
    signing_key_size: int = 32

    @property
    def up(self) -> int:
        """UP, the size to which upstream commands are padded."""
        return HEADER + self.packet_length

    @property
    def down(self) -> int:
        """DOWN, the size of downstream commands and of Consensus2 chunks."""
        return HEADER + 4 + SURB_ID + self.packet_length


PKI_SIZES = CommandSizes(packet_length=0, payload_length=0)
"""For PKI sessions, on which no packets are sent, with Ed25519 identity keys."""


class Pad(enum.Enum):
    """To what a command is padded on a mixnet session."""

    UP = "up"
    DOWN = "down"
    NONE = "none"


_MIXNET = frozenset([SessionKind.MIXNET])
_PKI = frozenset([SessionKind.PKI])
_BOTH = _MIXNET | _PKI


class Command:
    """Base of all commands.

    :cvar ID: the command id.
    :cvar KINDS: the session kinds on which it exists.
    :cvar PAD: its padding on mixnet sessions.
    """

    __slots__ = ()
    ID: ClassVar[int]
    KINDS: ClassVar[frozenset[SessionKind]]
    PAD: ClassVar[Pad] = Pad.NONE

    def body(self) -> bytes:
        """The body, without header and padding."""
        raise NotImplementedError

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        """The command with this body.

        :raises CommandError: a size that is not allowed.
        """
        raise NotImplementedError


def _need(ok: bool, command: type[Command], body: bytes) -> None:
    if not ok:
        raise CommandError(f"{command.__name__} with a body of {len(body)} bytes")


class _Empty(Command):
    __slots__ = ()

    def body(self) -> bytes:
        return b""

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(not body, cls, body)
        return cls()


@attrs.frozen
class NoOp(_Empty):
    """Heartbeat, and the responder's first record."""

    ID = 0
    KINDS = _BOTH
    PAD = Pad.UP


@attrs.frozen
class Disconnect(_Empty):
    """Understood, never sent by a reference program."""

    ID = 1
    KINDS = _BOTH
    PAD = Pad.UP


@attrs.frozen
class _Packet(Command):
    packet: bytes = attrs.field(repr=False)

    def body(self) -> bytes:
        return self.packet

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        return cls(body)


@attrs.frozen
class SendPacket(_Packet):
    """A Sphinx packet. The codec takes any size; a session insists on PL."""

    ID = 2
    KINDS = _MIXNET
    PAD = Pad.UP


@attrs.frozen
class SendRetrievePacket(_Packet):
    """A Sphinx packet that asks for a reply; legacy."""

    ID = 3
    KINDS = _MIXNET
    PAD = Pad.UP


@attrs.frozen(kw_only=True)
class SendRetrievePacketReply(Command):
    """The reply to the former; legacy."""

    surb_id: bytes = attrs.field(repr=False)
    payload: bytes = attrs.field(repr=False)

    ID = 4
    KINDS = _MIXNET
    PAD = Pad.DOWN

    def body(self) -> bytes:
        return self.surb_id + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) >= SURB_ID, cls, body)
        return cls(surb_id=body[:SURB_ID], payload=body[SURB_ID:])


@attrs.frozen
class _Sequenced(Command):
    sequence: int

    def body(self) -> bytes:
        return self.sequence.to_bytes(4, "big")

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) == 4, cls, body)
        return cls(int.from_bytes(body, "big"))


@attrs.frozen
class MessageDelivered(_Sequenced):
    """A client's acknowledgement of the Message with this sequence number."""

    ID = 5
    KINDS = _MIXNET
    PAD = Pad.UP


@attrs.frozen
class RetrieveMessage(_Sequenced):
    """The pull mode of an older design; a gateway closes the connection."""

    ID = 16
    KINDS = _MIXNET
    PAD = Pad.UP


@attrs.frozen(kw_only=True)
class Message(Command):
    """Push delivery of a stored SURB reply."""

    sequence: int
    surb_id: bytes = attrs.field(repr=False)
    payload: bytes = attrs.field(repr=False)

    ID = 17
    KINDS = _MIXNET
    PAD = Pad.DOWN

    def body(self) -> bytes:
        return self.sequence.to_bytes(4, "big") + self.surb_id + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) == 4 + SURB_ID + sizes.payload_length, cls, body)
        return cls(sequence=int.from_bytes(body[:4], "big"), surb_id=body[4:20], payload=body[20:])


@attrs.frozen
class _Epoch(Command):
    epoch: int

    def body(self) -> bytes:
        return self.epoch.to_bytes(8, "big")

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) == 8, cls, body)
        return cls(int.from_bytes(body, "big"))


@attrs.frozen
class GetConsensus(_Epoch):
    """Asks for the document of an epoch, answered with Consensus."""

    ID = 18
    KINDS = _BOTH
    PAD = Pad.UP


@attrs.frozen
class GetConsensus2(_Epoch):
    """Asks a gateway for the document of an epoch, answered with Consensus2 chunks."""

    ID = 32
    KINDS = _MIXNET
    PAD = Pad.UP


@attrs.frozen
class Consensus(Command):
    """A whole document, or a code of :class:`~katzentwist.wire.codes.ConsensusCode`."""

    error_code: int
    payload: bytes = attrs.field(default=b"", repr=False)

    ID = 19
    KINDS = _BOTH

    def body(self) -> bytes:
        return bytes([self.error_code]) + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) >= 1, cls, body)
        return cls(body[0], cut(body, 1))


@attrs.frozen(kw_only=True)
class Consensus2(Command):
    """One chunk of a compressed document (see :mod:`katzentwist.wire.chunks`)."""

    error_code: int
    chunk_num: int
    chunk_total: int
    payload: bytes = attrs.field(default=b"", repr=False)

    ID = 31
    KINDS = _MIXNET
    PAD = Pad.DOWN

    def body(self) -> bytes:
        numbers = self.chunk_num.to_bytes(4, "big") + self.chunk_total.to_bytes(4, "big")
        return bytes([self.error_code]) + numbers + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) >= 9, cls, body)
        number, total = int.from_bytes(body[1:5], "big"), int.from_bytes(body[5:9], "big")
        return cls(error_code=body[0], chunk_num=number, chunk_total=total, payload=body[9:])


@attrs.frozen(kw_only=True)
class PostDescriptor(Command):
    """A node's signed upload for an epoch."""

    epoch: int
    payload: bytes = attrs.field(repr=False)

    ID = 20
    KINDS = _PKI

    def body(self) -> bytes:
        return self.epoch.to_bytes(8, "big") + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) >= 8, cls, body)
        return cls(epoch=int.from_bytes(body[:8], "big"), payload=body[8:])


@attrs.frozen
class _Status(Command):
    error_code: int

    KINDS = _PKI

    def body(self) -> bytes:
        return bytes([self.error_code])

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) == 1, cls, body)
        return cls(body[0])


@attrs.frozen
class PostDescriptorStatus(_Status):
    """The reply to PostDescriptor."""

    ID = 21


@attrs.frozen
class VoteStatus(_Status):
    """The reply to Vote."""

    ID = 23


@attrs.frozen
class RevealStatus(_Status):
    """The reply to Reveal."""

    ID = 26


@attrs.frozen
class SigStatus(_Status):
    """The reply to Sig."""

    ID = 28


@attrs.frozen
class CertStatus(_Status):
    """The reply to Cert."""

    ID = 30


@attrs.frozen(kw_only=True)
class GetVote(Command):
    """Nobody sends it, nobody accepts it."""

    epoch: int
    public_key: bytes

    ID = 24
    KINDS = _PKI

    def body(self) -> bytes:
        return self.epoch.to_bytes(8, "big") + self.public_key

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        _need(len(body) == 8 + sizes.signing_key_size, cls, body)
        return cls(epoch=int.from_bytes(body[:8], "big"), public_key=body[8:])


@attrs.frozen(kw_only=True)
class _Ballot(Command):
    epoch: int
    public_key: bytes
    payload: bytes = attrs.field(repr=False)

    KINDS = _PKI

    def body(self) -> bytes:
        return self.epoch.to_bytes(8, "big") + self.public_key + self.payload

    @classmethod
    def from_body(cls, body: bytes, sizes: CommandSizes) -> Self:
        at = 8 + sizes.signing_key_size
        _need(len(body) >= at, cls, body)
        return cls(epoch=int.from_bytes(body[:8], "big"), public_key=body[8:at], payload=body[at:])


@attrs.frozen(kw_only=True)
class Vote(_Ballot):
    """An authority's vote."""

    ID = 22


@attrs.frozen(kw_only=True)
class Reveal(_Ballot):
    """An authority's shared random reveal."""

    ID = 25


@attrs.frozen(kw_only=True)
class Sig(_Ballot):
    """An authority's signature."""

    ID = 27


@attrs.frozen(kw_only=True)
class Cert(_Ballot):
    """An authority's certificate."""

    ID = 29


COMMANDS: tuple[type[Command], ...] = (
    NoOp,
    Disconnect,
    SendPacket,
    SendRetrievePacket,
    SendRetrievePacketReply,
    MessageDelivered,
    RetrieveMessage,
    Message,
    GetConsensus,
    Consensus,
    PostDescriptor,
    PostDescriptorStatus,
    Vote,
    VoteStatus,
    GetVote,
    Reveal,
    RevealStatus,
    Sig,
    SigStatus,
    Cert,
    CertStatus,
    Consensus2,
    GetConsensus2,
)
_BY_ID = {kind: {c.ID: c for c in COMMANDS if kind in c.KINDS} for kind in SessionKind}


def encode(command: Command, kind: SessionKind, sizes: CommandSizes) -> bytes:
    """The frame of *command*, padded as the session kind wants it.

    :raises CommandError: the command does not exist on this kind, or a field does not fit its width.
    """
    if kind not in command.KINDS:
        raise CommandError(f"{type(command).__name__} does not exist on {kind.value} sessions")
    try:
        body = command.body()
    except (OverflowError, ValueError) as error:
        raise CommandError(f"{type(command).__name__} can not be encoded: {error}") from error
    frame = bytes([command.ID, 0]) + len(body).to_bytes(4, "big") + body
    if kind is SessionKind.PKI or command.PAD is Pad.NONE:
        return frame
    return frame.ljust(sizes.up if command.PAD is Pad.UP else sizes.down, b"\0")


def encode_split(command: Consensus) -> tuple[bytes, bytes]:
    """The frame of a document in two parts: what stands before the document, and the document, which is not copied."""
    size = 1 + len(command.payload)
    return bytes([command.ID, 0]) + size.to_bytes(4, "big") + bytes([command.error_code]), command.payload


def unframe(data: bytes) -> tuple[int, bytes]:
    """(id, body) of a frame; rules 1 to 4 of spec: link 7.1."""
    if len(data) < HEADER:
        raise CommandError(f"a command of {len(data)} bytes")
    if data[1]:
        raise CommandError("reserved byte is set")
    end = HEADER + int.from_bytes(data[2:HEADER], "big")
    if end > len(data):
        raise CommandError("command shorter than its length field says")
    if not data.endswith(bytes(len(data) - end), end):
        raise CommandError("padding is not zero")
    return data[0], cut(data, HEADER, end)


def parse(data: bytes, kind: SessionKind, sizes: CommandSizes) -> Command:
    """The command in a decrypted record body (spec: link 7.1, 7.2).

    :raises CommandError: anything else.
    """
    number, body = unframe(data)
    command = _BY_ID[kind].get(number)
    if command is None:
        raise CommandError(f"unknown command id {number} on a {kind.value} session")
    return command.from_body(body, sizes)
