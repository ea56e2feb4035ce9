"""Properties of the PKI formats: any bytes give a value or a PKIError; what is written is read again."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import PKIError
from katzentwist.pki import addresses, cbor
from katzentwist.pki.cert import Certificate, Signature
from katzentwist.pki.descriptor import Descriptor
from katzentwist.pki.document import Document
from katzentwist.pki.upload import SignedUpload
from tests.vectorfiles import load, unhex

QUICK = settings(max_examples=150, deadline=None)
PARSERS: tuple[Callable[[bytes], object], ...] = (
    cbor.decode,
    Certificate.parse,
    Signature.parse,
    Descriptor.parse,
    SignedUpload.parse,
    Document.from_payload,
)
SEEDS = [
    unhex(load("pki-descriptor")["descriptors"][2]["cbor"]),
    unhex(load("pki-descriptor")["uploads"][2]["upload"]),
    unhex(load("pki-document")["documents"][0]["payload"]),
    unhex(load("pki-document")["documents"][13]["payload"]),
    unhex(load("pki-cert")["cases"][2]["cert"]),
]
SCALARS = st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12
)


def value_or_error(raw: bytes) -> None:
    """Feed every parser; what parses is checked too. Only PKIError may come out."""
    for parser in PARSERS:
        try:
            value = parser(raw)
            if isinstance(value, Document):
                value.payload()
                value.check([bytes(32)], value.epoch)
            elif isinstance(value, Descriptor):
                value.encode()
                value.check(value.epoch)
            elif isinstance(value, SignedUpload):
                value.verifies()
        except PKIError:
            pass


class ParserProperties(SynchronousTestCase):
    """Hostile bytes."""

    @QUICK
    @given(st.binary(max_size=200))
    def test_any_bytes(self, raw: bytes) -> None:
        """Any bytes: value or PKIError."""
        value_or_error(raw)

    @QUICK
    @given(st.sampled_from(SEEDS), st.data())
    def test_damaged(self, seed: bytes, data: st.DataObject) -> None:
        """A good structure with some bytes changed, cut or repeated: value or PKIError."""
        damaged = bytearray(seed)
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, max(len(damaged) - 1, 0)))
            end = data.draw(st.integers(at, min(len(damaged), at + 8)))
            damaged[at:end] = data.draw(st.binary(max_size=8))
        value_or_error(bytes(damaged))

    @QUICK
    @given(st.sampled_from(PARSERS[1:]), st.sampled_from(SEEDS), st.data())
    def test_odd_fields(self, parser: Callable[[bytes], object], seed: bytes, data: st.DataObject) -> None:
        """A good structure with any value in the place of a field: value or PKIError."""
        fields = cbor.decode(seed)
        fields[data.draw(st.sampled_from(sorted(fields)))] = data.draw(VALUES)
        value_or_error(cbor.encode(fields))

    @QUICK
    @given(st.text() | st.from_regex(r"(tcp|quic|onion|ws)4?://.{0,20}", fullmatch=True))
    def test_addresses(self, url: str) -> None:
        """Any text as an address: accepted or PKIError."""
        try:
            addresses.check({"tcp4": [url]}, onion=True)
        except PKIError:
            return
        self.assertIn(url.partition(":")[0].lower(), addresses.HOST_PORT_SCHEMES | {"onion"})


class CodecProperties(SynchronousTestCase):
    """Round trips."""

    @QUICK
    @given(VALUES)
    def test_values(self, value: object) -> None:
        """Canonical bytes are read into what writes the same bytes; types stay apart."""
        raw = cbor.encode(value)
        self.assertEqual(cbor.encode(cbor.decode(raw)), raw)

    @QUICK
    @given(
        st.text(min_size=1, max_size=8),
        st.dictionaries(st.integers(0, 2**64 - 1), st.binary(max_size=40), max_size=4),
        st.dictionaries(st.text(max_size=6), st.lists(st.text(max_size=20), max_size=3), max_size=3),
        st.none() | st.dictionaries(st.text(max_size=6), st.dictionaries(st.text(max_size=6), VALUES, max_size=3)),
    )
    def test_descriptors(self, name: str, keys: dict, urls: dict, services: dict | None) -> None:
        """Descriptors survive encoding, whatever is in them."""
        made = Descriptor(
            name=name, link_key=b"l", mix_keys=keys, addresses=urls, identity_key=b"i", kaetzchen=services
        )
        self.assertEqual(Descriptor.parse(made.encode()).encode(), made.encode())
