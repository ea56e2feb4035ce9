"""Documents in chunks, against pki-chunk.json; the codec is katzentwist.wire.chunks (spec: pki 13.4, link 7.3)."""

from __future__ import annotations

import gzip
import random

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.wire import chunks
from katzentwist.wire.commands import Consensus2
from tests.vectorfiles import load, unhex


class ChunkTests(SynchronousTestCase):
    """Both directions; compressed bytes depend on the compressor, so only contents are compared."""

    def test_reassemble(self) -> None:
        """The chunks of the reference give its document."""
        for case in load("pki-chunk")["cases"]:
            reader, found = chunks.Reassembly(), None
            for number, piece in enumerate(case["chunks"]):
                self.assertIsNone(found)
                found = reader.add(
                    Consensus2(error_code=0, chunk_num=number, chunk_total=len(case["chunks"]), payload=unhex(piece))
                )
            self.assertEqual(b"".join(found), unhex(case["blob"]))

    def test_round_trip(self) -> None:
        """Our chunks have the given size and give the document back."""
        for case in load("pki-chunk")["cases"]:
            reader, found = chunks.Reassembly(), None
            pieces = chunks.split(unhex(case["blob"]), case["chunk_size"])
            self.assertTrue(all(len(piece.payload) == case["chunk_size"] for piece in pieces[:-1]))
            for piece in pieces:
                found = reader.add(piece)
            self.assertEqual(b"".join(found), unhex(case["blob"]))

    def test_sizes(self) -> None:
        """Documents that are compressed in several steps, and streams that fill their last chunk or just not."""
        document = random.Random(1).randbytes(3 * (chunks._STEP // 2) + 1)
        stream = b"".join(piece.payload for piece in chunks.split(document, 1000))
        self.assertEqual(gzip.decompress(stream), document)
        for size in (len(stream) - 1, len(stream), len(stream) + 1):
            pieces = chunks.split(document, size)
            self.assertEqual([len(p.payload) for p in pieces], [size, 1] if size < len(stream) else [len(stream)])
            self.assertEqual({p.chunk_total for p in pieces}, {len(pieces)})
        self.assertEqual(gzip.decompress(chunks.split(b"", 1000)[0].payload), b"")
