"""The native core on any bytes, and its primitives against the twins."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import aez, mlkem, nike
from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError
from katzentwist.wire.records import PureRecordOpener, PureRecordSealer

quick = settings(max_examples=80, deadline=None)
key32 = st.binary(min_size=32, max_size=32)
MISSING = None if native is not None else "the native core is not built"


class AezTests(SynchronousTestCase):
    """AEZ equals the twin on every input."""

    skip = MISSING

    @quick
    @given(st.binary(max_size=60), st.binary(max_size=40), st.lists(st.binary(max_size=40), max_size=3), st.data())
    def test_equal(self, key: bytes, nonce: bytes, ad: list[bytes], data: st.DataObject) -> None:
        """Encrypt and decrypt, any lengths; a changed ciphertext gives the same verdict."""
        tau = data.draw(st.integers(0, 40))
        message = data.draw(st.binary(max_size=700))
        twin = aez.Aez(key)
        sealed = aez.encrypt(key, nonce, ad, tau, message)
        self.assertEqual(sealed, twin.encrypt(nonce, ad, tau, message))
        self.assertEqual(aez.decrypt(key, nonce, ad, tau, sealed), message)
        other = data.draw(st.binary(max_size=80))
        verdicts: list[bytes | None] = []
        for decrypt in (lambda: aez.decrypt(key, nonce, ad, tau, other), lambda: twin.decrypt(nonce, ad, tau, other)):
            try:
                verdicts.append(decrypt())
            except CryptoError:
                verdicts.append(None)
        self.assertEqual(*verdicts)

    @quick
    @given(st.binary(min_size=48, max_size=48), st.binary(max_size=1200))
    def test_portable(self, key: bytes, message: bytes) -> None:
        """The bit-sliced code gives the bytes of the AES instructions."""
        assert native is not None
        fast = aez.encrypt(key, b"nonce", [], 0, message)
        native.force_portable(True)
        try:
            self.assertEqual(aez.encrypt(key, b"nonce", [], 0, message), fast)
        finally:
            native.force_portable(False)


class KeyTests(SynchronousTestCase):
    """X25519 and ML-KEM."""

    skip = MISSING

    @quick
    @given(key32, key32)
    @example(bytes(32), bytes(32))
    def test_x25519(self, scalar: bytes, point: bytes) -> None:
        """Any scalar and point, by three implementations."""
        assert native is not None
        outcomes: list[bytes | None] = []
        for scheme, portable in (
            (nike.X25519(), False),
            (nike.NativeX25519(native), False),
            (nike.NativeX25519(native), True),
        ):
            native.force_portable(portable)
            try:
                outcomes.append(scheme.derive(scalar, point))
            except CryptoError:
                outcomes.append(None)
            finally:
                native.force_portable(False)
        self.assertEqual(len(set(outcomes)), 1)

    @settings(max_examples=10, deadline=None)
    @given(st.binary(min_size=64, max_size=64), key32)
    def test_mlkem(self, seed: bytes, message: bytes) -> None:
        """Keys, encapsulation and decapsulation against OpenSSL and the plain Python."""
        assert native is not None
        private, public = native.mlkem768_keypair(seed)
        self.assertEqual(public, mlkem.public_from_seed(seed))
        ciphertext, secret = native.mlkem768_encapsulate(public, message)
        self.assertEqual((ciphertext, secret), mlkem.encapsulate_reference(public, message))
        for key in (seed, private):
            self.assertEqual(native.mlkem768_decapsulate(key, ciphertext), secret)

    @quick
    @given(st.binary(max_size=70), st.binary(max_size=70))
    def test_lengths(self, one: bytes, two: bytes) -> None:
        """Wrong lengths are ValueError, whatever the bytes."""
        assert native is not None
        for call in (
            lambda: native.x25519(one + bytes(33), two),
            lambda: native.x25519(bytes(32), two + bytes(33)),
            lambda: native.x25519_base(one + bytes(33)),
            lambda: native.mlkem768_keypair(one + bytes(65)),
            lambda: native.mlkem768_encapsulate(one, two),
            lambda: native.mlkem768_decapsulate(one, two),
            lambda: native.unwrap(one + bytes(33), two, 3),
            lambda: native.unwrap_batch([one + bytes(33)], [two], 3, 100),
            lambda: native.build(3, [(one + bytes(33), two, two)], one, two, one),
            lambda: native.new_surb(3, [], one, bytes(32), two),
            lambda: native.aez_encrypt(one + bytes(49), two, [], 0, two),
            lambda: native.decrypt_reply(one + bytes(64), two),
        ):
            self.assertRaises(ValueError, call)

    @quick
    @given(st.integers(0, 2**64 - 1), st.binary(max_size=400), st.binary(max_size=200))
    @example(2**64 - 1, bytes(400), bytes(100))
    @example(2**63, b"", b"")
    def test_strange_geometry(self, hops: int, packet: bytes, filler: bytes) -> None:
        """No number of hops makes the core do more than refuse."""
        assert native is not None
        result = native.unwrap(bytes(32), b"\0\0" + packet, hops)
        self.assertTrue(result[0] is not None)
        native.unwrap_batch([bytes(32)], [packet], hops, len(packet))
        hop = (bytes(32), b"\x09" + bytes(31), bytes(10))
        if hops > 10:
            self.assertRaises(ValueError, native.build, hops, [hop], packet, bytes(32), filler)


class RecordTests(SynchronousTestCase):
    """The record layer equals its twin."""

    skip = MISSING

    @quick
    @given(key32, st.lists(st.binary(max_size=300) | st.binary(min_size=3000, max_size=4000), max_size=8), st.data())
    def test_equal(self, key: bytes, commands: list[bytes], data: st.DataObject) -> None:
        """The same stream out, the same commands in, however the stream is cut."""
        assert native is not None
        sealers = native.RecordSealer(key), PureRecordSealer(key)
        stream, expected = [sealer.seal(commands) for sealer in sealers]
        self.assertEqual(stream, expected)
        packets = [sealer.seal_packets(commands, 200) for sealer in sealers]
        self.assertEqual(*packets)
        self.assertEqual(*[(sealer.key, sealer.nonce) for sealer in sealers])
        openers = native.RecordOpener(key), PureRecordOpener(key)
        cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
        for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            self.assertEqual(*[opener.feed(stream[start:end]) for opener in openers])
        self.assertEqual(*[(opener.key, opener.nonce) for opener in openers])

    @quick
    @given(st.binary(max_size=100))
    def test_any_stream(self, data: bytes) -> None:
        """Twenty bytes that nobody sealed kill the opener, and it stays dead."""
        assert native is not None
        opener = native.RecordOpener(bytes(32), 1000)
        if len(data) < 20:
            self.assertEqual(opener.feed(data), [])
            return
        self.assertRaises(CryptoError, opener.feed, data)
        self.assertRaises(CryptoError, opener.feed, b"")

    def test_limits(self) -> None:
        """A body over the limit, a body under a tag's size, a counter that is used up."""
        assert native is not None
        stream = native.RecordSealer(bytes(32)).seal([bytes(85)])
        self.assertRaises(CryptoError, native.RecordOpener(bytes(32), 100).feed, stream[:20])
        self.assertEqual(native.RecordOpener(bytes(32), 101).feed(stream), [bytes(85)])
        self.assertRaises(CryptoError, native.RecordSealer(bytes(32), 2**64 - 2).seal, [b""])
        self.assertRaises(CryptoError, native.RecordSealer, bytes(31))

    def test_absurd_padding(self) -> None:
        """A padding length that no command has is refused before anything is allocated or sealed."""
        assert native is not None
        sealer = native.RecordSealer(bytes(32))
        for pad_to in (500_000_000, 2**32, 2**63):
            self.assertRaises(CryptoError, sealer.seal_packets, [b"x", b"y"], pad_to)
        self.assertEqual((sealer.key, sealer.nonce), (bytes(32), 0))
