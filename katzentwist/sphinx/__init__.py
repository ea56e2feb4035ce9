"""Sphinx packets: geometry, building, unwrapping, SURBs, paths and delays (spec: sphinx).

The native core does the work for x25519 geometries where it is there, the pure-Python :mod:`katzentwist.sphinx.twin`
otherwise; both give the same bytes.
"""

from katzentwist.sphinx.block import build_block, parse_block, recipient_id
from katzentwist.sphinx.commands import Command, Kind, NextNodeHop, NodeDelay, Recipient, Routing, SurbReply
from katzentwist.sphinx.delay import delay_cap, sample_delay
from katzentwist.sphinx.geometry import Geometry
from katzentwist.sphinx.packet import build
from katzentwist.sphinx.path import Path, PathDescriptor, PathDocument, choose_path, find_node
from katzentwist.sphinx.surb import Surb, decrypt_reply, new_surb, packet_from_surb, reply_packet
from katzentwist.sphinx.types import BatchResult, PathHop, Unwrapped
from katzentwist.sphinx.unwrap import unwrap, unwrap_batch

__all__ = [
    "BatchResult",
    "Command",
    "Geometry",
    "Kind",
    "NextNodeHop",
    "NodeDelay",
    "Path",
    "PathDescriptor",
    "PathDocument",
    "PathHop",
    "Recipient",
    "Routing",
    "Surb",
    "SurbReply",
    "Unwrapped",
    "build",
    "build_block",
    "choose_path",
    "decrypt_reply",
    "delay_cap",
    "find_node",
    "new_surb",
    "packet_from_surb",
    "parse_block",
    "recipient_id",
    "reply_packet",
    "sample_delay",
    "unwrap",
    "unwrap_batch",
]
