"""What sessions have in common: keys, kind, sizes, time-outs."""

from __future__ import annotations

import attrs

from katzentwist.crypto.kem import Kem
from katzentwist.wire import commands, records
from katzentwist.wire.commands import CommandSizes, SessionKind
from katzentwist.wire.legal import Accepted

MAX_PKI_COMMAND = 50_000_000 + 64
"""Nominal limit of a command on a PKI session (spec: link 11.3), and its header."""
_TAG = 16


@attrs.frozen(kw_only=True)
class SessionConfig:
    """What the sessions of one listener or dialler have in common. Times in seconds, sizes in bytes."""

    kem: Kem
    private: bytes = attrs.field(repr=False)
    """Own static KEM private key."""
    public: bytes = attrs.field(repr=False)
    additional_data: bytes = attrs.field(repr=False)
    """Own AD, at most 255 bytes (spec: link 5.5)."""
    kind: SessionKind
    sizes: CommandSizes = commands.PKI_SIZES
    accepts: Accepted | None = None
    """Commands that the peer may send (:mod:`katzentwist.wire.legal`); None: all of the kind."""
    handshake_timeout: float = 3.0
    """For the four messages together."""
    read_timeout: float | None = 120.0
    """For each command, re-armed when one is complete; None: the peer may be silent for ever."""
    max_command: int = 0
    """Largest padded command; 0: DOWN + 15 on mixnet sessions (a full Consensus2 chunk), 50 MB on PKI sessions."""

    def body_limit(self) -> int:
        """The largest record body L."""
        default = self.sizes.down + 15 if self.kind is SessionKind.MIXNET else MAX_PKI_COMMAND
        return min((self.max_command or default) + _TAG, records.MAX_BODY)
