"""The codes in replies (spec: link 7.4)."""

from __future__ import annotations

import enum


class ConsensusCode(enum.IntEnum):
    """Of Consensus and Consensus2."""

    OK = 0
    NOT_FOUND = 1
    """Asking later may help."""
    GONE = 2
    """Will never exist."""


class DescriptorCode(enum.IntEnum):
    """Of PostDescriptorStatus."""

    OK = 0
    INVALID = 1
    CONFLICT = 2
    """Another descriptor of that node for that epoch is stored."""
    FORBIDDEN = 3


class VoteCode(enum.IntEnum):
    """Of VoteStatus."""

    OK = 0
    TOO_LATE = 1
    TOO_EARLY = 2
    NOT_AUTHORIZED = 3
    NOT_SIGNED = 4
    MALFORMED = 5
    ALREADY_RECEIVED = 6
    NOT_FOUND = 7


class RevealCode(enum.IntEnum):
    """Of RevealStatus."""

    OK = 8
    TOO_EARLY = 9
    NOT_AUTHORIZED = 10
    NOT_SIGNED = 11
    ALREADY_RECEIVED = 12
    TOO_LATE = 13


class CertCode(enum.IntEnum):
    """Of CertStatus."""

    OK = 14
    TOO_EARLY = 15
    NOT_AUTHORIZED = 16
    NOT_SIGNED = 17
    ALREADY_RECEIVED = 18
    TOO_LATE = 19


class SigCode(enum.IntEnum):
    """Of SigStatus."""

    OK = 20
    NOT_AUTHORIZED = 21
    NOT_SIGNED = 22
    TOO_EARLY = 23
    TOO_LATE = 24
    ALREADY_RECEIVED = 25
    INVALID = 26
