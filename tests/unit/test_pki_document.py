"""Documents, against pki-document.json, pki-live.json and pki-geometry.json (spec: pki 7)."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto.hash import blake2b_256
from katzentwist.crypto.keys import identity_hash
from katzentwist.errors import PKIError
from katzentwist.pki import cbor, cert, document, wellformed
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from tests.unit.test_pki_cert import outcome, private, same_error
from tests.unit.test_pki_descriptor import from_fields
from tests.vectorfiles import load, unhex

VECTORS = load("pki-document")
NOW = VECTORS["epoch"] - 1
SIMPLE = {
    "Mu": "mu",
    "Epoch": "epoch",
    "LambdaG": "lambda_g",
    "LambdaL": "lambda_l",
    "LambdaM": "lambda_m",
    "LambdaP": "lambda_p",
    "LambdaR": "lambda_r",
    "Version": "version",
    "GenesisEpoch": "genesis_epoch",
    "PKISignatureScheme": "pki_signature_scheme",
}


def vector_document(index: int = 0) -> Document:
    """A document of the vectors."""
    return Document.from_payload(unhex(VECTORS["documents"][index]["payload"]))


class DocumentTests(SynchronousTestCase):
    """Parsing and writing."""

    def check_fields(self, read: Document, fields: dict[str, Any]) -> None:
        """Compare a read document with the fields of a vector."""
        for key, attribute in SIMPLE.items():
            self.assertEqual(repr(getattr(read, attribute)).removesuffix(".0"), repr(fields[key]).removesuffix(".0"))
        for key, nodes in (("GatewayNodes", read.gateways), ("ServiceNodes", read.service_nodes)):
            self.assertEqual([n.encode() for n in nodes], [from_fields(f).encode() for f in fields[key]])
        layers = [[from_fields(f).encode() for f in layer] for layer in fields["Topology"]]
        self.assertEqual([[n.encode() for n in layer] for layer in read.topology], layers)
        self.assertEqual([v.hex() for v in read.prior_shared_random], fields["PriorSharedRandom"] or [])
        self.assertEqual(read.shared_random_value.hex(), fields["SharedRandomValue"])
        self.assertEqual(read.sphinx_geometry_hash.hex(), fields["SphinxGeometryHash"])
        self.assertEqual(len(read.storage_replicas), len(fields["StorageReplicas"] or []))

    def test_documents(self) -> None:
        """Every document parses into the fields of the vector and is written again byte for byte."""
        for case in VECTORS["documents"]:
            read, error = outcome(Document.parse, unhex(case["cert"]), NOW)
            self.assertTrue(same_error(case["parse_error"], error), (case["name"], error))
            if read is None:
                continue
            with_odd_floats = "odd floats" in case["name"]
            if not with_odd_floats:
                self.check_fields(read, case["document"])
            self.assertEqual(read.payload().hex(), case["payload"], case["name"])
            self.assertEqual(cert.Certificate.parse(unhex(case["cert"])).encode().hex(), case["cert"])
            self.assertEqual(blake2b_256(unhex(case["cert"])).hex(), case["sum256"])

    def test_thresholds(self) -> None:
        """Who signed, and whether that is enough."""
        for case in VECTORS["documents"]:
            check = case["threshold"]
            keys = [unhex(key) for key in check["keys"]]
            verdict, error = outcome(cert.verify_threshold, unhex(case["cert"]), keys, check["threshold"], NOW)
            self.assertTrue(same_error(check["error"], error), (case["name"], error))
            if verdict is not None:
                self.assertEqual(sorted(key.hex() for key in verdict.good), sorted(check["good"]))
                self.assertEqual(sorted(key.hex() for key in verdict.bad), sorted(check["bad"]))

    def test_well_formed_documents(self) -> None:
        """Well-formedness given the keys of the threshold check."""
        for case in VECTORS["documents"]:
            if case["parse_error"]:
                continue
            keys = [unhex(key) for key in case["threshold"]["keys"]]
            _, error = outcome(Document.from_payload(unhex(case["payload"])).check, keys, NOW)
            self.assertTrue(same_error(case["wellformed_error"], error), (case["name"], error))

    def test_well_formed(self) -> None:
        """Every rule of well-formedness; texts compared where they hold no Go rendering of keys."""
        keys = [unhex(VECTORS["authorities"][0]["public"])]
        for case in VECTORS["wellformed"]:
            _, error = outcome(Document.from_payload(unhex(case["payload"])).check, keys, NOW)
            stable = case["error"].split(" [")[0].split(" as a ")[0]
            self.assertEqual(bool(error), bool(case["error"]), (case["name"], case["error"], error))
            self.assertTrue(same_error(stable, error), (case["name"], case["error"], error))

    def test_signing(self) -> None:
        """Signing the document of a vector gives its container."""
        case = VECTORS["documents"][0]
        self.assertEqual(vector_document().sign(private(case["signers"][0]), NOW).hex(), case["cert"])


class LookupTests(SynchronousTestCase):
    """Finding nodes."""

    def test_places(self) -> None:
        """Each node is found by its id, with its layer."""
        read = vector_document()
        places = list(read.places())
        self.assertEqual([place.layer for place in places], [0, 0, 1, 2, 2, 255, 254])
        for place in places:
            self.assertEqual(read.find(place.descriptor.id), place)
            self.assertIn(place.descriptor, read.layer(place.layer))
        self.assertEqual(read.size, len(places))
        self.assertIsNone(read.find(bytes(32)))

    def test_slices(self) -> None:
        """A large document is checked in many small steps."""
        read = vector_document()
        node = read.topology[0][0]
        nodes = [attrs.evolve(node, name=f"m{i}", identity_key=i.to_bytes(32, "big")) for i in range(1, 301)]
        large = attrs.evolve(read, topology=[nodes])
        self.assertGreater(sum(1 for _ in wellformed.steps(large, [], NOW)), 5)


class VerifyTests(SynchronousTestCase):
    """What a user of documents does."""

    def setUp(self) -> None:
        """A document of one authority."""
        self.case = VECTORS["documents"][0]
        self.raw = unhex(self.case["cert"])
        self.keys = [unhex(key) for key in self.case["threshold"]["keys"]]

    def test_good(self) -> None:
        """A good document comes with its signers and its bytes."""
        signed = document.verify(self.raw, self.keys, NOW, epoch=VECTORS["epoch"])
        self.assertEqual([signer.hex() for signer in signed.signers], self.case["threshold"]["good"])
        self.assertEqual(signed.raw, self.raw)
        self.assertEqual(identity_hash(signed.raw).hex(), self.case["sum256"])
        self.assertEqual(signed.payload(), signed.document.payload())

    def test_expired(self) -> None:
        """Five epochs later it is refused."""
        document.verify(self.raw, self.keys, VECTORS["epoch"] + 4)
        self.assertRaises(PKIError, document.verify, self.raw, self.keys, VECTORS["epoch"] + 5)

    def test_other_epoch(self) -> None:
        """A document that was not asked for is refused."""
        self.assertRaises(PKIError, document.verify, self.raw, self.keys, NOW, epoch=VECTORS["epoch"] + 1)

    def test_geometry(self) -> None:
        """Another geometry has an error of its own."""
        verify = document.verify
        self.assertRaises(document.GeometryMismatchError, verify, self.raw, self.keys, NOW, geometry_hash=bytes(32))

    def test_more_authorities(self) -> None:
        """One signature is not enough for two authorities."""
        keys = [*self.keys, unhex(VECTORS["outsider"]["public"])]
        self.assertRaises(PKIError, document.verify, self.raw, keys, NOW)

    def test_threshold(self) -> None:
        """N // 2 + 1."""
        self.assertEqual([document.threshold(n) for n in range(1, 6)], [1, 2, 2, 3, 3])

    def test_null_descriptor(self) -> None:
        """A null in the place of a descriptor is refused at once."""
        fields = cbor.decode(unhex(self.case["payload"]))
        fields["Topology"][0][0] = None
        self.assertRaises(PKIError, Document.from_payload, cbor.encode(fields))


class LiveTests(SynchronousTestCase):
    """Documents of running Go networks."""

    def test_live(self) -> None:
        """They verify, are well formed, survive re-encoding, and say what is expected."""
        for case in load("pki-live")["documents"]:
            raw, expect = unhex(case["cert"]), case["expect"]
            keys = [unhex(key) for key in case["authorities"]]
            signed = document.verify(raw, keys, expect["Epoch"], epoch=expect["Epoch"])
            read = signed.document
            self.assertGreaterEqual(len(signed.signers), case["threshold"])
            self.assertEqual(cert.Certificate.parse(raw).encode(), raw)
            self.assertEqual(read.payload(), cert.Certificate.parse(raw).certified)
            self.assertEqual(len(read.payload()), case["payload_length"])
            self.assertEqual([len(layer) for layer in read.topology], case["layer_sizes"])
            self.assertEqual(read.genesis_epoch, expect["GenesisEpoch"])
            self.assertEqual(read.shared_random_value.hex(), expect["SharedRandomValue"])
            self.assertEqual([v.hex() for v in read.prior_shared_random], expect["PriorSharedRandom"])
            self.assertEqual(read.lambda_g, expect["LambdaG"])
            self.assertEqual(read.sphinx_geometry_hash, blake2b_256(cbor.encode(case["geometry"])))
            for key, value in case["parameters"].items():
                self.assertEqual(getattr(read, SIMPLE[key]), value)
            for nodes, facts in [
                *zip(read.topology, expect["Topology"], strict=True),
                (read.gateways, expect["GatewayNodes"]),
                (read.service_nodes, expect["ServiceNodes"]),
            ]:
                for node, fact in zip(nodes, facts, strict=True):
                    self.check_node(node, fact)

    def check_node(self, node: Descriptor, fact: dict[str, Any]) -> None:
        """Compare a descriptor with what is known of it."""
        self.assertEqual((node.name, node.id.hex()), (fact["Name"], fact["id"]))
        self.assertEqual({k: list(v) for k, v in node.addresses.items()}, fact["Addresses"])
        self.assertEqual(sorted(node.mix_keys), fact["MixKeyEpochs"])
        self.assertEqual(len(node.link_key), fact["LinkKeyLength"])
        self.assertEqual(sorted(node.kaetzchen or {}), fact["services"])


class GeometryHashTests(SynchronousTestCase):
    """The canonical encoder on geometries."""

    def test_vectors(self) -> None:
        """The map has the bytes and the hash of the reference."""
        for case in load("pki-geometry")["cases"]:
            self.assertEqual(cbor.encode(case["geometry"]).hex(), case["cbor"])
            self.assertEqual(blake2b_256(unhex(case["cbor"])).hex(), case["hash"])
