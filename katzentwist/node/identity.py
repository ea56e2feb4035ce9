"""The long-term keys of one half."""

from __future__ import annotations

import attrs

from katzentwist.crypto.keys import identity_hash
from katzentwist.node.keyfiles import KeyPair


@attrs.frozen
class Identity:
    """Identity and link key pair.

    :ivar id: the node id, 32 bytes: the hash of the identity public key.
    """

    identity: KeyPair
    link: KeyPair
    id: bytes

    @classmethod
    def of(cls, identity: KeyPair, link: KeyPair) -> Identity:
        """From both pairs."""
        return cls(identity, link, identity_hash(identity.public))
