"""The descriptor of a mix, gateway or service node (spec: pki 5).

A canonical CBOR map of thirteen keys, always all present; inside uploads and documents it is a byte string. The names
of the attributes are those of the keys in snake case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any, Final

import attrs

from katzentwist.cbor import Value
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import PKIError
from katzentwist.pki import addresses as _addresses
from katzentwist.pki import cbor

MAX_NAME: Final = 32
"""Bytes of UTF-8 in a name, and in an endpoint."""
KEYS_AHEAD: Final = 2
"""Mix keys may be for the target epoch and this many after it."""

MAX_ITEMS: Final = 1 << 14
"""CBOR items of a descriptor; a service node with many services has some hundred."""

_NAMES = cbor.names(
    (
        "Name",
        "Epoch",
        "LinkKey",
        "MixKeys",
        "Version",
        "Addresses",
        "Kaetzchen",
        "LoadWeight",
        "IdentityKey",
        "IsGatewayNode",
        "IsServiceNode",
        "AuthenticationType",
        "KaetzchenAdvertizedData",
    )
)


@attrs.frozen(kw_only=True)
class Descriptor:
    """What a node says about itself. Parsing checks types; :meth:`check` the rules.

    Fields that were null read as empty (see :mod:`katzentwist.pki.cbor`).

    :ivar name: the node's identifier.
    :ivar epoch: the target epoch of the upload; informative.
    :ivar link_key: raw public key of the wire KEM.
    :ivar mix_keys: epoch -> raw Sphinx public key; its length is not checked here.
    :ivar addresses: transport -> URLs.
    :ivar kaetzchen: capability -> parameters, ``endpoint`` among them; None unless a service node.
    :ivar identity_key: raw identity public key.
    :ivar kaetzchen_advertized_data: capability -> free data, or None.
    """

    name: str
    epoch: int = 0
    link_key: bytes
    mix_keys: Mapping[int, bytes]
    version: str = ""
    addresses: Mapping[str, Sequence[str]]
    kaetzchen: Mapping[str, Mapping[str, Any]] | None = None
    load_weight: int = 0
    identity_key: bytes
    is_gateway_node: bool = False
    is_service_node: bool = False
    authentication_type: str = ""
    kaetzchen_advertized_data: Mapping[str, Mapping[str, Any]] | None = None

    @classmethod
    def parse(cls, raw: bytes) -> Descriptor:
        """Read a CBOR map.

        :raises PKIError: no CBOR, or a field of the wrong type.
        """
        fields = cbor.Fields("descriptor", cbor.decode(raw, MAX_ITEMS), _NAMES)
        return cls(
            name=fields.text("Name"),
            epoch=fields.uint("Epoch"),
            link_key=fields.blob("LinkKey"),
            mix_keys=fields.mapping(
                "MixKeys",
                fields.uint_value,
                lambda name, key: cbor.NULL_BYTES if key is None else fields.blob_value(name, key),
            ),
            version=fields.text("Version"),
            addresses=fields.mapping(
                "Addresses",
                fields.text_value,
                lambda name, urls: fields.array_value(name, urls, fields.text_value),
            ),
            kaetzchen=_services(fields, "Kaetzchen"),
            load_weight=fields.uint("LoadWeight", 256),
            identity_key=fields.blob("IdentityKey"),
            is_gateway_node=fields.boolean("IsGatewayNode"),
            is_service_node=fields.boolean("IsServiceNode"),
            authentication_type=fields.text("AuthenticationType"),
            kaetzchen_advertized_data=_services(fields, "KaetzchenAdvertizedData"),
        )

    @cached_property
    def encoded(self) -> bytes:
        """The canonical CBOR."""
        return cbor.encode(
            {
                "Name": self.name,
                "Epoch": self.epoch,
                "LinkKey": self.link_key,
                "MixKeys": self.mix_keys,
                "Version": self.version,
                "Addresses": self.addresses,
                "Kaetzchen": self.kaetzchen,
                "LoadWeight": self.load_weight,
                "IdentityKey": self.identity_key,
                "IsGatewayNode": self.is_gateway_node,
                "IsServiceNode": self.is_service_node,
                "AuthenticationType": self.authentication_type,
                "KaetzchenAdvertizedData": self.kaetzchen_advertized_data,
            }
        )

    def encode(self) -> bytes:
        """The canonical CBOR, as it stands in uploads and documents."""
        return self.encoded

    @cached_property
    def id(self) -> bytes:
        """``id(IdentityKey)``, 32 bytes: the name of the node everywhere."""
        return identity_hash(self.identity_key)

    def mix_key(self, epoch: int) -> bytes | None:
        """The Sphinx public key for *epoch*, if there is one."""
        return self.mix_keys.get(epoch) or None

    def check(self, epoch: int) -> None:
        """Refuse what is not well formed for *epoch* (spec: pki 5.2); the first failing rule speaks.

        :raises PKIError: not well formed.
        """
        if not self.name:
            raise PKIError("Descriptor missing Name")
        if len(self.name.encode()) > MAX_NAME:
            raise PKIError(f"Descriptor Name '{self.name}' exceeds max length")
        if cbor.is_null(self.link_key):
            raise PKIError("Descriptor missing LinkKey")
        if cbor.is_null(self.identity_key):
            raise PKIError("Descriptor missing IdentityKey")
        if cbor.is_null(self.mix_keys.get(epoch)):
            raise PKIError(f"Descriptor missing MixKey[{epoch}]")
        if not all(epoch <= key_epoch <= epoch + KEYS_AHEAD for key_epoch in self.mix_keys):
            raise PKIError(f"Descriptor contains MixKey for invalid epoch: {self.name!r}")
        _addresses.check(self.addresses, onion=self.is_gateway_node)
        if self.is_service_node:
            _check_kaetzchen(self.kaetzchen or {})
        elif self.kaetzchen is not None:
            raise PKIError("Descriptor contains Kaetzchen when a mix")


def _services(fields: cbor.Fields, name: str) -> Mapping[str, Mapping[str, Any]] | None:
    """A map capability -> parameters, or None."""

    def parameters(_name: str, value: Value) -> Mapping[str, Any]:
        if value is None:
            return cbor.NULL_MAP
        if type(value) is not dict or not all(type(key) is str for key in value):
            raise PKIError(f"impossible to decode: {name} of descriptor is not a map of maps with text keys")
        return value

    found = fields.mapping(name, fields.text_value, parameters)
    return None if cbor.is_null(found) else found


def _check_kaetzchen(kaetzchen: Mapping[str, Mapping[str, Any]]) -> None:
    """Refuse a block of services by spec: pki 5.4."""
    for capability, parameters in kaetzchen.items():
        problem = _service_problem(capability, parameters)
        if problem:
            raise PKIError(f"Descriptor contains invalid Kaetzchen block: {problem}")


def _service_problem(capability: str, parameters: Mapping[str, Any]) -> str:
    if not capability:
        return "capability length out of bounds"
    if cbor.is_null(parameters):
        return f"capability {capability!r} has no parameters"
    if "endpoint" not in parameters:
        return f"capability {capability!r} provided no endpoint"
    endpoint = parameters["endpoint"]
    if not isinstance(endpoint, str):
        return f"capability {capability!r} invalid endpoint type: {type(endpoint).__name__}"
    if not 1 <= len(endpoint.encode()) <= MAX_NAME:
        return f"capability {capability!r} invalid endpoint, length out of bounds"
    return ""
