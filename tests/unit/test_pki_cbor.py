"""The bounded reader and the canonical writer (spec: pki 2)."""

from __future__ import annotations

import math

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import PKIError
from katzentwist.pki import cbor

BAD = {
    "nothing": "",
    "trailing byte": "0000",
    "cut integer": "19ff",
    "cut string": "4201",
    "cut array": "8201",
    "reserved length": "1c",
    "lone break": "ff",
    "break in an array": "82ff01",
    "break as a value": "bf01ff",
    "break in a map": "a1ff",
    "duplicate key": "a201010102",
    "array as a key": "a18001",
    "bad UTF-8": "61ff",
    "split character": "7f61c361a9ff",
    "mixed chunks": "5f6161ff",
    "nested chunks": "5f5f4101ffff",
    "simple value": "e0",
    "two byte simple value": "f8ff",
    "tag without an item": "c1",
    "tag around a break": "9fc1ff",
    "huge array": "9b7fffffffffffffff",
    "huge map": "bb7fffffffffffffff",
    "huge string": "5b7fffffffffffffff",
    "indefinite integer": "1f",
    "indefinite tag": "df00",
    "too many items": "9a00020001" + "00" * 131073,
}
GOOD = {
    "1800": 0,
    "1b0000000000000001": 1,
    "3bffffffffffffffff": -(2**64),
    "5f41014102ff": b"\x01\x02",
    "7f61616162ff": "ab",
    "9f0102ff": [1, 2],
    "bf616101ff": {"a": 1},
    "c11a00000001": 1,
    "f7": None,
    "f6": None,
    "f4": False,
    "f93800": 0.5,
    "fa3f000000": 0.5,
    "a26162016161f5": {"b": 1, "a": True},
}


class CBORTests(SynchronousTestCase):
    """Both directions."""

    def test_refused(self) -> None:
        """What is not one item within the limits is a PKIError."""
        for name, text in BAD.items():
            self.assertRaises(PKIError, cbor.decode, bytes.fromhex(text))
            self.assertTrue(name)

    def test_accepted(self) -> None:
        """What Go tolerates and means no harm is read."""
        for text, value in GOOD.items():
            self.assertEqual(cbor.decode(bytes.fromhex(text)), value)

    def test_depth(self) -> None:
        """Thirty-two levels, no more."""
        cbor.decode(b"\x81" * 32 + b"\x00")
        self.assertRaises(PKIError, cbor.decode, b"\x81" * 33 + b"\x00")
        self.assertRaises(PKIError, cbor.decode, b"\xc1" * 100000 + b"\x00")

    def test_total(self) -> None:
        """The items of all levels together are bounded."""
        row = b"\x99\x03\xe8" + bytes(1000)
        self.assertEqual(len(cbor.decode(b"\x98\xc8" + row * 200)), 200)
        self.assertRaises(PKIError, cbor.decode, b"\x99\x01\x2c" + row * 300)
        self.assertRaises(PKIError, cbor.decode, row, 1000)

    def test_floats(self) -> None:
        """Shortest form, with the fixed NaN."""
        for value, text in ((0.5, "f93800"), (0.0, "f90000"), (0.02, "fb3f947ae147ae147b"), (math.inf, "f97c00")):
            self.assertEqual(cbor.encode(value).hex(), text)
        self.assertEqual(cbor.encode(math.nan).hex(), "f97e00")

    def test_key_order(self) -> None:
        """Length first, then bytewise."""
        raw = cbor.encode({"Version": 0, "Mu": 0, "Epoch": 0, "Alpha": 0, 300: 0, 1: 0})
        self.assertEqual(list(cbor.decode(raw)), [1, 300, "Mu", "Alpha", "Epoch", "Version"])

    def test_nulls(self) -> None:
        """The empty values that were null are written as null, at any depth."""
        value = {"a": cbor.NULL_BYTES, "b": [cbor.NULL_MAP, {}], "c": {"d": cbor.NULL_LIST}}
        self.assertEqual(cbor.decode(cbor.encode(value)), {"a": None, "b": [None, {}], "c": {"d": None}})


class FieldsTests(SynchronousTestCase):
    """Reading structures."""

    def fields(self, value: object) -> cbor.Fields:
        """A structure with the fields X and Other."""
        return cbor.Fields("thing", value, cbor.names(("X", "Other")))

    def test_zero_values(self) -> None:
        """Missing and null fields are zero."""
        for value in (None, {}, {"X": None}, {"Unknown": 1, 5: 6, None: 1}):
            fields = self.fields(value)
            self.assertEqual((fields.uint("X"), fields.text("X"), fields.boolean("X")), (0, "", False))
            self.assertEqual((fields.floating("X"), fields.blob("X"), fields.raw("X")), (0.0, b"", None))
            self.assertEqual(fields.array("X", fields.uint_value), ())
            self.assertEqual(fields.mapping("X", fields.text_value, cbor.free_form), {})

    def test_wrong_types(self) -> None:
        """Each kind of field refuses the others."""
        for value in (1.5, -1, 2**64, "t", b"b", True, [], {}):
            fields = self.fields({"X": value})
            refused = 0
            for read in (fields.uint, fields.text, fields.boolean, fields.floating, fields.blob):
                try:
                    read("X")
                except PKIError:
                    refused += 1
            self.assertIn(refused, (4, 5), value)
            for name in ("array", "mapping"):
                if not isinstance(value, list if name == "array" else dict):
                    arguments = (fields.uint_value,) if name == "array" else (fields.uint_value, fields.uint_value)
                    self.assertRaises(PKIError, getattr(fields, name), "X", *arguments)

    def test_wrong_case(self) -> None:
        """A known name in another case is refused, and so is what is no map."""
        self.assertRaises(PKIError, self.fields, {"x": 1})
        self.assertRaises(PKIError, self.fields, [1])
