"""The document of an epoch, also called the consensus (spec: pki 7).

A document travels as a certificate container (:mod:`katzentwist.pki.cert`) whose payload is one canonical CBOR map.
The attributes of :class:`Document` are the keys of that map in snake case, in canonical order; fields that were null
read as empty and are written as null again. Rates are events per millisecond.

Everything here is a pure function of its arguments: a document of thousands of nodes may be read and checked in a
worker thread, or checked in slices with :func:`katzentwist.pki.wellformed.steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import chain
from typing import Final, NamedTuple, TypeVar

import attrs

from katzentwist.cbor import Value
from katzentwist.errors import PKIError
from katzentwist.pki import cbor, cert, wellformed
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.replica import ReplicaDescriptor

T = TypeVar("T")

VERSION: Final = wellformed.VERSION
LIFETIME: Final = 5
"""The container of the document of epoch e expires at e + 5."""
LAYER_GATEWAY: Final = 255
LAYER_SERVICE: Final = 254

_KEYS: Final = (
    "Mu",
    "Epoch",
    "LambdaG",
    "LambdaL",
    "LambdaM",
    "LambdaP",
    "LambdaR",
    "Version",
    "Topology",
    "GatewayNodes",
    "GenesisEpoch",
    "ServiceNodes",
    "StorageReplicas",
    "PriorSharedRandom",
    "SharedRandomValue",
    "PKISignatureScheme",
    "SharedRandomCommit",
    "SharedRandomReveal",
    "SphinxGeometryHash",
    "ConfiguredReplicaIDs",
    "ConfiguredReplicaIdentityKeys",
)
_NAMES = cbor.names(_KEYS)


class Place(NamedTuple):
    """Where a node stands in a document.

    :ivar layer: index into the topology, or :data:`LAYER_GATEWAY`, or :data:`LAYER_SERVICE`.
    """

    layer: int
    descriptor: Descriptor


class _Index(NamedTuple):
    """Two dictionaries and no object for each node: what the garbage collector has to look at holds up everything."""

    nodes: Mapping[bytes, Descriptor]
    layers: Mapping[bytes, int]


@attrs.frozen(kw_only=True)
class Document:
    """A decoded document; who vouches for it is another matter (:func:`verify`).

    :ivar topology: layers of mixes; layer 0 is next to the gateways.
    :ivar shared_random_commit: id of an authority -> container; null in a published document.
    :ivar configured_replica_ids: one byte for each replica; left out of the encoding if empty.
    """

    mu: float
    epoch: int
    lambda_g: float
    lambda_l: float
    lambda_m: float
    lambda_p: float
    lambda_r: float
    version: str = VERSION
    topology: Sequence[Sequence[Descriptor]]
    gateway_nodes: Sequence[Descriptor]
    genesis_epoch: int
    service_nodes: Sequence[Descriptor]
    storage_replicas: Sequence[ReplicaDescriptor] = ()
    prior_shared_random: Sequence[bytes]
    shared_random_value: bytes
    pki_signature_scheme: str = cert.SCHEME.name
    shared_random_commit: Mapping[bytes, bytes] = cbor.NULL_MAP
    shared_random_reveal: Mapping[bytes, bytes] = cbor.NULL_MAP
    sphinx_geometry_hash: bytes
    configured_replica_ids: bytes = b""
    configured_replica_identity_keys: Sequence[bytes] = ()

    @classmethod
    def from_payload(cls, payload: bytes) -> Document:
        """Decode the map of a document.

        :raises PKIError: no CBOR, a field of the wrong type, or a descriptor that does not decode.
        """
        fields = cbor.Fields("document", cbor.decode(payload), _NAMES)
        return cls(
            mu=fields.floating("Mu"),
            epoch=fields.uint("Epoch"),
            lambda_g=fields.floating("LambdaG"),
            lambda_l=fields.floating("LambdaL"),
            lambda_m=fields.floating("LambdaM"),
            lambda_p=fields.floating("LambdaP"),
            lambda_r=fields.floating("LambdaR"),
            version=fields.text("Version"),
            topology=fields.array("Topology", lambda name, layer: fields.array_value(name, layer, _descriptor)),
            gateway_nodes=fields.array("GatewayNodes", _descriptor),
            genesis_epoch=fields.uint("GenesisEpoch"),
            service_nodes=fields.array("ServiceNodes", _descriptor),
            storage_replicas=fields.array("StorageReplicas", lambda _name, value: ReplicaDescriptor.from_value(value)),
            prior_shared_random=fields.array(
                "PriorSharedRandom", lambda name, value: fields.blob_value(name, value, 32)
            ),
            shared_random_value=fields.blob("SharedRandomValue"),
            pki_signature_scheme=fields.text("PKISignatureScheme"),
            shared_random_commit=_signed_map(fields, "SharedRandomCommit"),
            shared_random_reveal=_signed_map(fields, "SharedRandomReveal"),
            sphinx_geometry_hash=fields.blob("SphinxGeometryHash"),
            configured_replica_ids=fields.blob("ConfiguredReplicaIDs"),
            configured_replica_identity_keys=fields.array("ConfiguredReplicaIdentityKeys", fields.blob_value),
        )

    @classmethod
    def parse(cls, raw: bytes, now: int) -> Document:
        """Decode a container without verifying any signature (spec: pki 7.5).

        :param now: the current epoch.
        :raises PKIError: no sane container, ``document not signed``, or no document in it.
        """
        certificate = cert.Certificate.parse(raw)
        certificate.check(now)
        if not certificate.signatures:
            raise PKIError("document not signed")
        return cls.from_payload(certificate.certified)

    def payload(self) -> bytes:
        """The canonical map: what is certified, and what thin clients get."""
        fields: dict[str, object] = {
            "Mu": self.mu,
            "Epoch": self.epoch,
            "LambdaG": self.lambda_g,
            "LambdaL": self.lambda_l,
            "LambdaM": self.lambda_m,
            "LambdaP": self.lambda_p,
            "LambdaR": self.lambda_r,
            "Version": self.version,
            "Topology": _values(self.topology, lambda layer: _values(layer, Descriptor.encode)),
            "GatewayNodes": _values(self.gateway_nodes, Descriptor.encode),
            "GenesisEpoch": self.genesis_epoch,
            "ServiceNodes": _values(self.service_nodes, Descriptor.encode),
            "StorageReplicas": _values(self.storage_replicas, ReplicaDescriptor.to_value),
            "PriorSharedRandom": self.prior_shared_random,
            "SharedRandomValue": self.shared_random_value,
            "PKISignatureScheme": self.pki_signature_scheme,
            "SharedRandomCommit": self.shared_random_commit,
            "SharedRandomReveal": self.shared_random_reveal,
            "SphinxGeometryHash": self.sphinx_geometry_hash,
        }
        if self.configured_replica_ids:
            fields["ConfiguredReplicaIDs"] = self.configured_replica_ids
        if self.configured_replica_identity_keys:
            fields["ConfiguredReplicaIdentityKeys"] = self.configured_replica_identity_keys
        return cbor.encode(fields)

    def sign(self, private: bytes, now: int) -> bytes:
        """The published form, with one signature (spec: pki 7.2).

        :param private: identity key of the authority, 64 bytes.
        """
        return cert.sign(private, self.payload(), self.epoch + LIFETIME, now, self.pki_signature_scheme)

    @property
    def gateways(self) -> Sequence[Descriptor]:
        """``gateway_nodes``, by the shorter name that path selection uses."""
        return self.gateway_nodes

    def places(self) -> Iterator[Place]:
        """Every node with its layer: mixes by layer, then gateways, then service nodes."""
        for index, layer in enumerate(self.topology):
            yield from (Place(index, node) for node in layer)
        yield from (Place(LAYER_GATEWAY, node) for node in self.gateway_nodes)
        yield from (Place(LAYER_SERVICE, node) for node in self.service_nodes)

    def nodes(self) -> Iterator[Descriptor]:
        """Every node, in the order of :meth:`places`."""
        return chain(*self.topology, self.gateway_nodes, self.service_nodes)

    def layer(self, number: int) -> Sequence[Descriptor]:
        """The nodes of one layer, as :class:`Place` numbers them."""
        if number == LAYER_GATEWAY:
            return self.gateway_nodes
        return self.service_nodes if number == LAYER_SERVICE else self.topology[number]

    @cached_property
    def _index(self) -> _Index:
        nodes: dict[bytes, Descriptor] = {}
        layers: dict[bytes, int] = {}
        for layer, descriptor in self.places():
            if nodes.setdefault(descriptor.id, descriptor) is descriptor:
                layers.setdefault(descriptor.id, layer)
        return _Index(nodes, layers)

    def find(self, node: bytes) -> Place | None:
        """The node with this id (32 bytes)."""
        descriptor = self._index.nodes.get(node)
        return None if descriptor is None else Place(self._index.layers[node], descriptor)

    @property
    def size(self) -> int:
        """How many nodes there are."""
        return sum(map(len, self.topology)) + len(self.gateway_nodes) + len(self.service_nodes)

    def check(self, authorities: Sequence[bytes], now: int) -> None:
        """Refuse what is not well formed (spec: pki 7.6).

        :param authorities: raw identity keys of the configured authorities.
        :param now: the current epoch.
        :raises PKIError: the first rule that fails.
        """
        for _ in wellformed.steps(self, authorities, now):
            pass


@attrs.frozen(kw_only=True)
class SignedDocument:
    """A verified document with the bytes to keep: only they carry the signatures.

    :ivar raw: the container.
    :ivar signers: ids of the authorities whose signatures are good.
    :ivar missing: ids of the configured authorities that did not sign, or wrongly.
    """

    raw: bytes
    document: Document
    signers: Sequence[bytes]
    missing: Sequence[bytes] = ()

    def payload(self) -> bytes:
        """What is certified, without the signatures; found, not made: making it takes long for thousands of nodes."""
        return cert.Certificate.parse(self.raw).certified


def threshold(authorities: int) -> int:
    """How many of so many authorities must sign: ``N // 2 + 1``."""
    return authorities // 2 + 1


def verify(
    raw: bytes,
    authorities: Sequence[bytes],
    now: int,
    *,
    epoch: int | None = None,
    geometry_hash: bytes | None = None,
    well_formed: bool = True,
) -> SignedDocument:
    """Take a fetched document, or refuse it: signatures, parse, well-formedness, epoch, geometry (spec: pki 7.7).

    :param authorities: raw identity keys of all configured authorities.
    :param now: the current epoch.
    :param epoch: the epoch that was asked for, if one was.
    :param geometry_hash: hash of our own geometry, if it shall be compared (:class:`GeometryMismatchError`).
    :param well_formed: False leaves :meth:`Document.check` to the caller.
    :raises PKIError: the first check that fails.
    """
    verdict = cert.verify_threshold(raw, authorities, threshold(len(authorities)), now)
    document = Document.from_payload(verdict.certified)
    document.find(b"")  # the index of a large document takes tens of milliseconds: made here, perhaps in a thread
    if well_formed:
        document.check(authorities, now)
    if epoch is not None and document.epoch != epoch:
        raise PKIError(f"the document is for epoch {document.epoch}, not for {epoch}")
    if geometry_hash is not None and document.sphinx_geometry_hash != geometry_hash:
        raise GeometryMismatchError(
            f"the network's Sphinx geometry {document.sphinx_geometry_hash.hex()} is not ours, {geometry_hash.hex()}: "
            "make [SphinxGeometry] the same everywhere"
        )
    return SignedDocument(raw=raw, document=document, signers=verdict.good, missing=verdict.bad)


class GeometryMismatchError(PKIError):
    """The network uses another geometry: nothing can work, so nodes and clients stop (spec: pki 7.4)."""


def _descriptor(_name: str, value: Value) -> Descriptor:
    if type(value) is not bytes:
        raise PKIError("impossible to decode: a descriptor in the document is not a byte string")
    return Descriptor.parse(value)


def _signed_map(fields: cbor.Fields, name: str) -> dict[bytes, bytes]:
    return fields.mapping(name, lambda n, key: fields.blob_value(n, key, 32), fields.blob_value)


def _values(items: Iterable[T], each: Callable[[T], object]) -> list[object] | None:
    """The encoder's list, or null again."""
    return None if cbor.is_null(items) else [each(item) for item in items]
