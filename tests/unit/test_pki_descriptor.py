"""Descriptors and uploads, against pki-descriptor.json (spec: pki 5, 6)."""

from __future__ import annotations

from typing import Any

import attrs
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import PKIError
from katzentwist.pki import cbor
from katzentwist.pki.cert import Signature
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.upload import LoopStats, SignedUpload
from tests.unit.test_pki_cert import outcome, private
from tests.vectorfiles import load, unhex

VECTORS = load("pki-descriptor")


def free(value: Any) -> Any:
    """A free-form value of a vector: ``{"bytes": hex}`` stands for a byte string."""
    if isinstance(value, dict):
        if set(value) == {"bytes"}:
            return unhex(value["bytes"])
        return {key: free(item) for key, item in value.items()}
    return [free(item) for item in value] if isinstance(value, list) else value


def from_fields(fields: dict[str, Any]) -> Descriptor:
    """A descriptor from the ``fields`` of a vector."""

    def blob(name: str) -> bytes:
        return cbor.NULL_BYTES if fields[name] is None else unhex(fields[name])

    return Descriptor(
        name=fields["Name"],
        epoch=fields["Epoch"],
        link_key=blob("LinkKey"),
        mix_keys=cbor.NULL_MAP
        if fields["MixKeys"] is None
        else {int(epoch): unhex(key) for epoch, key in fields["MixKeys"].items()},
        version=fields["Version"],
        addresses=cbor.NULL_MAP if fields["Addresses"] is None else fields["Addresses"],
        kaetzchen=free(fields["Kaetzchen"]),
        load_weight=fields["LoadWeight"],
        identity_key=blob("IdentityKey"),
        is_gateway_node=fields["IsGatewayNode"],
        is_service_node=fields["IsServiceNode"],
        authentication_type=fields["AuthenticationType"],
        kaetzchen_advertized_data=free(fields["KaetzchenAdvertizedData"]),
    )


def well_formed(raw: bytes, epoch: int) -> None:
    """Parse and check."""
    Descriptor.parse(raw).check(epoch)


class DescriptorTests(SynchronousTestCase):
    """Descriptors."""

    def test_encode(self) -> None:
        """Fields give the bytes of the reference, and come back from them."""
        for case in VECTORS["descriptors"]:
            made = from_fields(case["fields"])
            self.assertEqual(made.encode().hex(), case["cbor"], case["name"])
            read = Descriptor.parse(unhex(case["cbor"]))
            self.assertEqual(read.encode().hex(), case["cbor"], case["name"])
            self.assertEqual(attrs.asdict(read)["kaetzchen"], made.kaetzchen)

    def test_descriptors_well_formed(self) -> None:
        """The listed descriptors are well formed, but for the zero value."""
        for case in VECTORS["descriptors"]:
            _, error = outcome(well_formed, unhex(case["cbor"]), VECTORS["epoch"])
            self.assertEqual(error, case["wellformed_error"], case["name"])

    def test_well_formed(self) -> None:
        """Every rule of well-formedness, with the beginning of its text where that is stable."""
        for case in VECTORS["wellformed"]:
            _, error = outcome(well_formed, unhex(case["cbor"]), case["epoch"])
            self.assertEqual(bool(error), bool(case["error"]), (case["name"], case["error"], error))
            if case["error"].startswith("Descriptor"):
                stable = case["error"].split(":")[0].split(" 'x'")[0]
                self.assertTrue(error.startswith(stable), (case["error"], error))

    def test_identity(self) -> None:
        """The id is the hash of the identity key."""
        ids = {key["id"] for key in VECTORS["keys"].values()}
        self.assertIn(Descriptor.parse(unhex(VECTORS["descriptors"][0]["cbor"])).id.hex(), ids)

    def test_free_form_types_stay_apart(self) -> None:
        """1, 1.0 and True; text and bytes; null: each comes back as what it was."""
        base = from_fields(VECTORS["descriptors"][2]["fields"])
        values = {"endpoint": "x", "a": 1, "b": 1.0, "c": True, "d": "t", "e": b"t", "f": None, "g": [{}, -0.0]}
        raw = attrs.evolve(base, kaetzchen={"x": values}).encode()
        again = Descriptor.parse(raw)
        self.assertEqual(again.encode(), raw)
        assert again.kaetzchen is not None
        self.assertEqual([type(v) for v in again.kaetzchen["x"].values()].count(bool), 1)

    def test_mix_key(self) -> None:
        """A key that is not there, null or empty reads as None."""
        node = from_fields(VECTORS["descriptors"][0]["fields"])
        self.assertEqual(len(node.mix_key(VECTORS["epoch"]) or b""), 32)
        self.assertIsNone(node.mix_key(1))


class UploadTests(SynchronousTestCase):
    """Signed uploads."""

    def stats(self, fields: dict[str, Any] | None) -> LoopStats | None:
        """The loop statistics of a vector."""
        if fields is None:
            return None
        ratios, node = fields["SegmentRatios"], fields["MixIdentityHash"]
        return LoopStats(
            epoch=fields["Epoch"],
            segment_ratios=cbor.NULL_MAP if ratios is None else {unhex(k): float(v) for k, v in ratios.items()},
            mix_identity_hash=cbor.NULL_BYTES if node is None else unhex(node),
        )

    def test_vectors(self) -> None:
        """Signed bytes and uploads are those of the reference, and verify."""
        other = unhex(VECTORS["keys"]["gateway"]["public"])
        for case in VECTORS["uploads"]:
            descriptor = Descriptor.parse(unhex(case["descriptor_cbor"]))
            made = SignedUpload.sign(private(case["seed"]), descriptor, self.stats(case["loop_stats"]))
            self.assertEqual(made.signed_bytes().hex(), case["signed_bytes"], case["name"])
            self.assertEqual(made.encode().hex(), case["upload"])
            read = SignedUpload.parse(unhex(case["upload"]))
            self.assertEqual(read.encode().hex(), case["upload"])
            self.assertEqual(read.verifies(), case["verifies"])
            if descriptor.identity_key != other:
                self.assertEqual(read.verifies(other), case["verifies_with_other_key"])

    def test_without_a_signature(self) -> None:
        """A null signature is no crash and does not verify."""
        descriptor = Descriptor.parse(unhex(VECTORS["uploads"][0]["descriptor_cbor"]))
        upload = SignedUpload.parse(SignedUpload(descriptor=descriptor).encode())
        self.assertFalse(upload.verifies())

    def test_unknown_keys_are_not_protected(self) -> None:
        """The verifier signs what it understood: a descriptor with an unknown key does not verify."""
        case = VECTORS["uploads"][0]
        fields = cbor.decode(unhex(case["descriptor_cbor"]))
        fields["Extra"] = 1
        upload = cbor.decode(unhex(case["upload"]))
        upload["MixDescriptor"] = cbor.encode(fields)
        signature = Signature.make(private(case["seed"]), cbor.encode({**upload, "Signature": None}))
        raw = cbor.encode({**upload, "Signature": signature.to_value()})
        self.assertFalse(SignedUpload.parse(raw).verifies())

    def test_without_a_descriptor(self) -> None:
        """Nothing, null and empty maps are refused."""
        for raw in (b"", cbor.encode(None), cbor.encode({}), cbor.encode({"MixDescriptor": b""})):
            self.assertRaises(PKIError, SignedUpload.parse, raw)
