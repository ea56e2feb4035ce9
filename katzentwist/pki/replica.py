"""The descriptor of a storage replica (spec: pki 5.6): parsed and kept, not used by katzentwist."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import attrs

from katzentwist.cbor import Value
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import PKIError
from katzentwist.pki import addresses as _addresses
from katzentwist.pki import cbor
from katzentwist.pki.descriptor import MAX_NAME

_NAMES = cbor.names(("Name", "Epoch", "LinkKey", "Addresses", "ReplicaID", "IdentityKey", "EnvelopeKeys"))


@attrs.frozen(kw_only=True)
class ReplicaDescriptor:
    """What a storage replica says about itself.

    :ivar envelope_keys: replica epoch -> raw public key.
    """

    name: str
    epoch: int
    link_key: bytes
    addresses: Mapping[str, Sequence[str]]
    replica_id: int
    identity_key: bytes
    envelope_keys: Mapping[int, bytes]

    @classmethod
    def from_value(cls, value: Value) -> ReplicaDescriptor:
        """Read a decoded map.

        :raises PKIError: null, or a field of the wrong type.
        """
        if value is None:
            raise PKIError("impossible to decode: a replica that is null")
        fields = cbor.Fields("replica descriptor", value, _NAMES)
        return cls(
            name=fields.text("Name"),
            epoch=fields.uint("Epoch"),
            link_key=fields.blob("LinkKey"),
            addresses=fields.mapping(
                "Addresses",
                fields.text_value,
                lambda name, urls: fields.array_value(name, urls, fields.text_value),
            ),
            replica_id=fields.uint("ReplicaID", 256),
            identity_key=fields.blob("IdentityKey"),
            envelope_keys=fields.mapping(
                "EnvelopeKeys",
                fields.uint_value,
                lambda name, key: cbor.NULL_BYTES if key is None else fields.blob_value(name, key),
            ),
        )

    def to_value(self) -> dict[str, object]:
        """The map of the encoder; replicas stand in a document as they are, not as byte strings."""
        return {
            "Name": self.name,
            "Epoch": self.epoch,
            "LinkKey": self.link_key,
            "Addresses": self.addresses,
            "ReplicaID": self.replica_id,
            "IdentityKey": self.identity_key,
            "EnvelopeKeys": self.envelope_keys,
        }

    @cached_property
    def id(self) -> bytes:
        """``id(IdentityKey)``, 32 bytes."""
        return identity_hash(self.identity_key)

    def check(self) -> None:
        """Refuse what is not well formed.

        :raises PKIError: not well formed.
        """
        if not self.name:
            raise PKIError("ReplicaDescriptor missing Name")
        if len(self.name.encode()) > MAX_NAME:
            raise PKIError(f"ReplicaDescriptor Name '{self.name}' exceeds max length")
        if cbor.is_null(self.link_key):
            raise PKIError("ReplicaDescriptor missing LinkKey")
        if cbor.is_null(self.identity_key):
            raise PKIError("ReplicaDescriptor missing IdentityKey")
        if cbor.is_null(self.envelope_keys):
            raise PKIError("ReplicaDescriptor EnvelopeKeys is nil")
        if not self.envelope_keys:
            raise PKIError("ReplicaDescriptor EnvelopeKeys is empty")
        _addresses.check(self.addresses, onion=False)
