"""Which command is legal where (spec: link 8); anything else ends the session."""

from __future__ import annotations

from katzentwist.wire import commands as c

Accepted = frozenset[type[c.Command]]

NODE_LISTENER: Accepted = frozenset([c.NoOp, c.SendPacket, c.Disconnect])
"""From a mix, gateway or service node that dialled us."""
GATEWAY_LISTENER: Accepted = NODE_LISTENER | {c.MessageDelivered, c.GetConsensus, c.GetConsensus2}
"""From a client that dialled us."""
NODE_DIALLER: Accepted = frozenset()
"""From a node that we dialled: nothing."""
CLIENT: Accepted = frozenset([c.NoOp, c.Disconnect, c.Message, c.Consensus2])
"""From a gateway."""
AUTHORITY_CLIENT: Accepted = frozenset([c.GetConsensus])
"""At an authority, from a peer with empty AD."""
AUTHORITY_NODE: Accepted = frozenset([c.GetConsensus, c.PostDescriptor])
"""At an authority, from a node."""
AUTHORITY_PEER: Accepted = frozenset([c.GetConsensus, c.Vote, c.Reveal, c.Cert, c.Sig])
"""At an authority, from an authority."""
REPLY_TO: dict[type[c.Command], Accepted] = {
    c.GetConsensus: frozenset([c.Consensus]),
    c.PostDescriptor: frozenset([c.PostDescriptorStatus]),
    c.Vote: frozenset([c.VoteStatus]),
    c.Reveal: frozenset([c.RevealStatus]),
    c.Cert: frozenset([c.CertStatus]),
    c.Sig: frozenset([c.SigStatus]),
}
"""From an authority that we asked: exactly the reply that fits the request."""
