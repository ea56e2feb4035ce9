"""Whether a document is well formed, given the keys of the authorities (spec: pki 7.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import PKIError
from katzentwist.pki import cert, sharedrandom
from katzentwist.pki.descriptor import Descriptor

if TYPE_CHECKING:
    from katzentwist.pki.document import Document

VERSION: Final = "v1"
SLICE: Final = 50
"""Descriptors checked in one step, a millisecond or so."""


def steps(document: Document, authorities: Sequence[bytes], now: int) -> Iterator[None]:
    """Run the checks; yields now and then, so that a Cooperator can spread them. Done without an error: well formed.

    :param authorities: raw identity keys of the configured authorities.
    :param now: the current epoch.
    :raises PKIError: the first rule that fails.
    """
    if document.version != VERSION:
        raise PKIError(f"Invalid Document Version: '{document.version}'")
    if document.genesis_epoch == 0:
        raise PKIError("Document has invalid GenesisEpoch")
    if not document.prior_shared_random and document.genesis_epoch != document.epoch:
        raise PKIError("Document has invalid PriorSharedRandom")
    _check_shared_random(document, {identity_hash(key): key for key in authorities}, now)
    yield
    seen: set[bytes] = set()
    if not document.topology:
        raise PKIError("Document contains no Topology")
    for index, layer in enumerate(document.topology):
        if not layer:
            raise PKIError(f"Document Topology layer {index} contains no nodes")
        yield from _check_nodes(layer, document.epoch, seen)
    if not document.gateway_nodes:
        raise PKIError("Document contains no Gateway Nodes")
    if not document.service_nodes:
        raise PKIError("Document contains no Service Nodes")
    _check_flags(document)
    yield from _check_nodes(document.gateway_nodes, document.epoch, seen)
    yield from _check_nodes(document.service_nodes, document.epoch, seen)
    for replica in document.storage_replicas:
        replica.check()


def _check_nodes(nodes: Sequence[Descriptor], epoch: int, seen: set[bytes]) -> Iterator[None]:
    for count, node in enumerate(nodes):
        if count % SLICE == SLICE - 1:
            yield
        node.check(epoch)
        if node.id in seen:
            raise PKIError(f"Document contains multiple entries for {node.id.hex()}")
        seen.add(node.id)


def _check_flags(document: Document) -> None:
    for nodes, flag, kind in (
        (document.gateway_nodes, "is_gateway_node", "Gateway"),
        (document.service_nodes, "is_service_node", "Service"),
    ):
        for node in nodes:
            if not getattr(node, flag):
                raise PKIError(f"Document lists {node.id.hex()} as a {kind} node, which it says it is not")


def _check_shared_random(document: Document, authorities: Mapping[bytes, bytes], now: int) -> None:
    commits, reveals = document.shared_random_commit, document.shared_random_reveal
    payloads = {signer: _commit(document.epoch, signer, raw, authorities, now) for signer, raw in commits.items()}
    if len(commits) == 1 and reveals:
        raise PKIError("Document is not a valid Vote")
    if len(commits) > 1:
        if len(reveals) != len(commits):
            raise PKIError("Document has not as many SharedRandomReveal as SharedRandomCommit")
        for signer, raw in reveals.items():
            if signer not in payloads:
                raise PKIError("Document has a SharedRandomReveal without a SharedRandomCommit")
            _check_reveal(raw, authorities[signer], payloads[signer], now)


def _commit(epoch: int, signer: bytes, raw: bytes, authorities: Mapping[bytes, bytes], now: int) -> bytes:
    public = authorities.get(signer)
    if public is None:
        raise PKIError("Document has unknown verifier on a SharedRandomCommit")
    try:
        payload = cert.verify(raw, public, now)
    except PKIError as error:
        raise PKIError(f"Document has invalid signed SharedRandomCommit: {error}") from None
    if len(payload) != sharedrandom.LENGTH or sharedrandom.epoch_of(payload) != epoch:
        raise PKIError("Document has a SharedRandomCommit of another epoch")
    return payload


def _check_reveal(raw: bytes, public: bytes, committed: bytes, now: int) -> None:
    signer = identity_hash(public).hex()
    try:
        payload = cert.verify(raw, public, now)
    except PKIError as error:
        raise PKIError(f"Document has an Invalid Signature on SharedRandomReveal for {signer}: {error}") from None
    if not sharedrandom.matches(committed, payload):
        raise PKIError(f"Document has a SharedRandomReveal for {signer} that does not match its commit")
