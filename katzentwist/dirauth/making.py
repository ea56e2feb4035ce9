"""Making the document of an epoch from what was uploaded (spec: pki 7, 8, 9, 11.5).

Pure functions of frozen inputs, so that a large document can be made in a worker thread.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from katzentwist.config.authority import Parameters
from katzentwist.crypto.keys import identity_hash
from katzentwist.pki import sharedrandom, topology
from katzentwist.pki.cert import SCHEME
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document, SignedDocument


@attrs.frozen(kw_only=True)
class Network:
    """What the configuration says about the documents of this network.

    :ivar layers: number of mix layers.
    :ivar fixed: ids of the nodes of each configured layer, or None for layers that the authority chooses.
    :ivar gateways: number of configured identities that are gateways and nothing else.
    """

    parameters: Parameters
    geometry_hash: bytes
    layers: int
    min_nodes_per_layer: int
    fixed: tuple[tuple[bytes, ...], ...] | None = None
    gateways: int


@attrs.frozen(kw_only=True)
class Making:
    """Everything that goes into one document.

    :ivar descriptors: all uploads for *epoch*, in any order.
    :ivar previous: the document of ``epoch - 1``, if there is one.
    :ivar flexible_gateways: how many of the gateways are not counted in ``network.gateways``, since their entry admits
        either kind.
    """

    network: Network
    epoch: int
    descriptors: Sequence[Descriptor]
    previous: Document | None = None
    flexible_gateways: int = 0

    def sign(self, private: bytes, random: bytes, now: int) -> SignedDocument:
        """The signed document.

        :param private: identity key of the authority, 64 bytes.
        :param random: 32 fresh random bytes for the shared random value.
        :param now: the current epoch.
        :raises PKIError: these descriptors make no well-formed document.
        """
        document = self.draft(private[-SCHEME.public_key_size :], random)
        public = private[-SCHEME.public_key_size :]
        document.check([public], now)
        return SignedDocument(raw=document.sign(private, now), document=document, signers=[identity_hash(public)])

    def draft(self, public: bytes, random: bytes) -> Document:
        """The document, with the shared random value made from one reveal: ours."""
        reveal = sharedrandom.reveal(self.epoch, random)
        before = self.previous
        value = sharedrandom.value(
            self.epoch, {identity_hash(public): reveal}, before.shared_random_value if before else None
        )
        prior = sharedrandom.prior_values(self.epoch, value, before.prior_shared_random if before else ())
        genesis = before.genesis_epoch if before else self.epoch
        return self.build(value, prior, genesis)

    def build(self, shared_random: bytes, prior: Sequence[bytes], genesis: int) -> Document:
        """The document with these shared random values (spec: pki 7.1)."""
        ordered = sorted(self.descriptors, key=lambda node: node.id)
        gateways = [node for node in ordered if node.is_gateway_node]
        services = [node for node in ordered if node.is_service_node and not node.is_gateway_node]
        mixes = [node for node in ordered if not node.is_gateway_node and not node.is_service_node]
        network, rates = self.network, self.network.parameters
        layers = self.assign(mixes, shared_random)
        return Document(
            mu=rates.mu,
            epoch=self.epoch,
            lambda_g=topology.lambda_g(
                gateways=network.gateways + self.flexible_gateways,
                widest=max((len(layer) for layer in network.fixed or layers), default=0),
                mu=rates.mu,
                lambda_p=rates.lambda_p,
                lambda_l=rates.lambda_l,
            ),
            lambda_l=rates.lambda_l,
            lambda_m=rates.lambda_m,
            lambda_p=rates.lambda_p,
            lambda_r=rates.lambda_r,
            topology=layers,
            gateway_nodes=gateways,
            genesis_epoch=genesis,
            service_nodes=services,
            prior_shared_random=list(prior),
            shared_random_value=shared_random,
            sphinx_geometry_hash=network.geometry_hash,
        )

    def assign(self, mixes: Sequence[Descriptor], shared_random: bytes) -> topology.Layers:
        """Put the mixes into layers: as configured, as before, or at random (spec: pki 9)."""
        network = self.network
        if network.fixed is not None:
            return topology.fixed(network.fixed, {node.id: node for node in mixes})
        if self.previous is None:
            return topology.random(mixes, network.layers, shared_random)
        before = [[node.id for node in layer] for layer in self.previous.topology]
        return topology.derived(mixes, before, network.layers, shared_random)

    def missing(self) -> str:
        """What is missing for a usable document (spec: pki 11.3), in words; empty if nothing is."""
        mixes = [node for node in self.descriptors if not node.is_gateway_node and not node.is_service_node]
        needed = self.network.min_nodes_per_layer
        if not any(node.is_gateway_node for node in self.descriptors):
            return "a gateway"
        if not any(node.is_service_node for node in self.descriptors):
            return "a service node"
        if self.network.fixed is not None:
            there = {node.id for node in mixes}
            counts = [sum(node in there for node in layer) for layer in self.network.fixed]
        else:
            counts = [len(mixes) // self.network.layers]
        if min(counts) < needed:
            return f"mixes: {len(mixes)} are too few for {self.network.layers} layers of {needed}"
        return ""
