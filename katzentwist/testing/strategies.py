"""Hypothesis strategies for values of the wire."""

from __future__ import annotations

from hypothesis import strategies as st

from katzentwist.testing.wirepair import SMALL
from katzentwist.wire import Command, CommandSizes, SessionKind
from katzentwist.wire import commands as c

U8 = st.integers(0, 2**8 - 1)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
_PAYLOAD = st.binary(max_size=2000)


def wire_commands(kind: SessionKind, sizes: CommandSizes = SMALL) -> st.SearchStrategy[Command]:
    """Any command that exists on this kind of session."""

    def exactly(size: int) -> st.SearchStrategy[bytes]:
        return st.binary(min_size=size, max_size=size)

    surb_id, key = exactly(c.SURB_ID), exactly(sizes.signing_key_size)
    every: list[st.SearchStrategy[Command]] = [
        st.just(c.NoOp()),
        st.just(c.Disconnect()),
        st.builds(c.SendPacket, exactly(sizes.packet_length)),
        st.builds(c.SendRetrievePacket, exactly(sizes.packet_length)),
        st.builds(c.SendRetrievePacketReply, surb_id=surb_id, payload=_PAYLOAD),
        st.builds(c.MessageDelivered, U32),
        st.builds(c.RetrieveMessage, U32),
        st.builds(c.Message, sequence=U32, surb_id=surb_id, payload=exactly(sizes.payload_length)),
        st.builds(c.GetConsensus, U64),
        st.builds(c.GetConsensus2, U64),
        st.builds(c.Consensus, U8, _PAYLOAD),
        st.builds(c.Consensus2, error_code=U8, chunk_num=U32, chunk_total=U32, payload=_PAYLOAD),
        st.builds(c.PostDescriptor, epoch=U64, payload=_PAYLOAD),
        st.builds(c.GetVote, epoch=U64, public_key=key),
    ]
    statuses = (c.PostDescriptorStatus, c.VoteStatus, c.RevealStatus, c.SigStatus, c.CertStatus)
    every += [st.builds(status, U8) for status in statuses]
    ballots = (c.Vote, c.Reveal, c.Sig, c.Cert)
    every += [st.builds(ballot, epoch=U64, public_key=key, payload=_PAYLOAD) for ballot in ballots]
    return st.one_of(every).filter(lambda command: kind in command.KINDS)


def frames() -> st.SearchStrategy[bytes]:
    """Bytes that look like a command frame: any id, a body, a length that may lie, and padding that may not be zero."""

    def frame(number: int, reserved: int, body: bytes, lie: int, padding: bytes) -> bytes:
        length = max(0, len(body) + lie) & 0xFFFFFFFF
        return bytes([number, reserved]) + length.to_bytes(4, "big") + body + padding

    padding = st.one_of(st.just(b""), st.integers(1, 50).map(bytes), st.binary(max_size=5))
    lies = st.sampled_from([0, 0, 0, 0, -1, 1, 2**31])
    return st.builds(frame, st.integers(0, 40), st.sampled_from([0, 0, 0, 0, 1]), st.binary(max_size=80), lies, padding)
