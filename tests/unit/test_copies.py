"""Large slices and joins."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto.copies import WORTH, cut, join
from katzentwist.crypto.native import native

DATA = bytes(range(256)) * (WORTH // 128)
places = st.integers(0, len(DATA) + 300)
quick = settings(max_examples=60, deadline=None)


class CopyTests(SynchronousTestCase):
    """They give what Python's own give, on both sides of the size from which the native core does it."""

    @quick
    @given(places, places | st.none())
    def test_cut(self, start: int, stop: int | None) -> None:
        """A slice, also one that begins or ends outside, or backwards."""
        self.assertEqual(cut(DATA, start, stop), DATA[start:stop])

    @quick
    @given(st.lists(st.integers(0, len(DATA) // 2), max_size=5))
    def test_join(self, sizes: list[int]) -> None:
        """Any parts."""
        parts = [DATA[n : 2 * n] for n in sizes]
        self.assertEqual(join(parts), b"".join(parts))

    def test_native(self) -> None:
        """The native functions alone, which take any size."""
        if native is None:
            self.skipTest("the native core is not built")
        self.assertEqual(native.join_bytes([]), b"")
        self.assertEqual(native.join_bytes([b"", b"ab", b"", b"c"]), b"abc")
        for start, stop in ((0, 3), (1, 99), (4, 2), (99, 100)):
            self.assertEqual(native.cut_bytes(b"abcdef", start, stop), b"abcdef"[start:stop])
        for wrong in ((b"abc", -1, 2), ("abc", 0, 2)):
            self.assertRaises((TypeError, OverflowError), native.cut_bytes, *wrong)
