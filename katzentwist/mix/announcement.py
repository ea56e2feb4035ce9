"""What a node says of itself at its start and with ``-g`` (spec: provider 9, node 1.5)."""

from __future__ import annotations

from twisted.logger import Logger

from katzentwist.config.halves import Half as HalfConfig
from katzentwist.config.node import NodeConfig
from katzentwist.crypto.native import native
from katzentwist.logger import notice
from katzentwist.node.identity import Identity
from katzentwist.node.startup import key_lines

WARNING = "katzentwist is experimental software: do not rely on it for strong anonymity yet."


def announce(log: Logger, config: NodeConfig, identities: list[tuple[HalfConfig, Identity]]) -> None:
    """Log the warnings, and names and keys of every half, in the specified order."""
    notice(log, WARNING)
    if config.logging.level == "DEBUG":
        log.warn("Unsafe debug logging is enabled: a log of this level helps those who watch the network.")
    if native is not None:
        notice(log, "AEZv5 implementation is hardware accelerated.")
    else:
        log.warn("AEZv5 implementation IS NOT hardware accelerated.")
        log.warn("the native core is missing: packets are processed in Python, many times slower")
    for number, (half, identity) in enumerate(identities):
        for line in key_lines(half.identifier, identity.identity, identity.link, "Service" if number else "Server"):
            notice(log, "{line}", line=line)
