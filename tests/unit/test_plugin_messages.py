"""Framing and messages of the plugin protocol (node 7.8, 7.9)."""

from __future__ import annotations

import time
from typing import Any

import cbor2
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.errors import PluginError
from katzentwist.plugins.framing import MAX_DEPTH, MAX_HEADS, MAX_ITEM, Items, decode
from katzentwist.plugins.messages import PluginRequest, PluginResponse, plain
from tests.vectorfiles import load, unhex

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.text(max_size=8) | st.binary(max_size=300),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=5), inner, max_size=5),
    max_leaves=20,
)


def nullable(text: str | None) -> bytes | None:
    """None, or the bytes."""
    return None if text is None else unhex(text)


class VectorTests(SynchronousTestCase):
    """What Go writes and reads."""

    def test_requests(self) -> None:
        """The same bytes, and back."""
        for case in load("node")["plugin"]["request"]:
            request = PluginRequest(
                id=int(case["id"]),
                payload=nullable(case["payload"]),
                surb=nullable(case["surb"]),
                request_at=case["request_at"],
                delay=case["delay"],
                is_parameters_request=case["is_parameters_request"],
                has_surb=bool(case["surb"]),
            )
            self.assertEqual(request.encode().hex(), case["cbor"])
            self.assertEqual(PluginRequest.parse(unhex(case["cbor"])), request)

    def test_responses(self) -> None:
        """The same bytes, and back."""
        for case in load("node")["plugin"]["response"]:
            response = PluginResponse(
                id=int(case["id"]),
                payload=nullable(case["payload"]),
                surb=nullable(case["surb"]),
                request_at=case["request_at"],
                delay=case["delay"],
                is_parameters_response=case["is_parameters_response"],
                params=case["params"] or {},
            )
            self.assertEqual(response.encode().hex(), case["cbor"])
            self.assertEqual(PluginResponse.parse(unhex(case["cbor"])), response)

    def test_old_shape(self) -> None:
        """Requests and responses up to v0.0.34."""
        for case in load("node")["plugin"]["old_request"]:
            request = PluginRequest(
                id=int(case["id"]), payload=nullable(case["payload"]), has_surb=case["has_surb"], new_shape=False
            )
            self.assertEqual(request.encode_old().hex(), case["cbor"])
            self.assertEqual(PluginRequest.parse(unhex(case["cbor"])), request)
        for case in load("node")["plugin"]["old_response"]:
            response = PluginResponse(payload=nullable(case["payload"]), new_shape=False)
            self.assertEqual(response.encode_old().hex(), case["cbor"])
            self.assertEqual(PluginResponse.parse(unhex(case["cbor"])), response)

    def test_decode(self) -> None:
        """What readers take and refuse."""
        for case in load("node")["plugin"]["decode_response"]:
            raw = unhex(case["cbor"])
            if not case["ok"]:
                self.assertRaises(PluginError, PluginResponse.parse, raw)
                continue
            got = PluginResponse.parse(raw)
            self.assertEqual(
                (got.id, got.payload or b"", got.surb or b"", got.request_at, got.delay, got.is_parameters_response),
                (
                    int(case["id"]),
                    unhex(case["payload"]),
                    unhex(case["surb"]),
                    case["request_at"],
                    case["delay"],
                    case["is_parameters_response"],
                ),
                case["name"],
            )

    def test_superset(self) -> None:
        """Both shapes find their keys in the superset; it counts as new."""
        request = PluginRequest(id=7, payload=b"hi", surb=b"\1\2", has_surb=True, request_at=1795309323)
        both = cbor2.loads(request.encode_both(2000))
        self.assertEqual(list(both), ["RequestAt", "Delay", "ID", "Payload", "SURB", "HasSURB", "ResponseSize"])
        self.assertEqual((both["HasSURB"], both["ResponseSize"]), (True, 2000))
        self.assertEqual(PluginRequest.parse(request.encode_both(2000)), request)


class FramingTests(SynchronousTestCase):
    """Where items end."""

    @given(st.lists(PLAIN, min_size=1, max_size=6), st.data())
    def test_any_cut(self, values: list[Any], data: Any) -> None:
        """However the stream is cut, the same items come out, and they mean the same."""
        stream = b"".join(cbor2.dumps(v) for v in values)
        items, got = Items(), []
        at = 0
        while at < len(stream):
            step = data.draw(st.integers(1, 64))
            items.receive(stream[at : at + step])
            at += step
            while (item := items.take()) is not None:
                got.append(plain(decode(item)))
        self.assertEqual(got, values)
        self.assertEqual(len(items), 0)

    @settings(max_examples=300)
    @given(st.binary(max_size=200))
    def test_any_bytes(self, raw: bytes) -> None:
        """Any bytes: items or our error, and nothing else; what is framed decodes or is refused."""
        items = Items()
        items.receive(raw)
        try:
            while (item := items.take()) is not None:
                PluginResponse.parse(item)
        except PluginError:
            pass

    @given(PLAIN)
    def test_indefinite(self, value: Any) -> None:
        """Indefinite lengths frame and decode as well."""
        raw = _indefinite(value)
        items = Items()
        items.receive(raw + b"\x07")
        self.assertEqual(items.take(), raw)
        self.assertEqual(plain(decode(raw)), value)
        self.assertEqual(items.take(), b"\x07")

    def test_announced_flood(self) -> None:
        """A string of 100 MB is refused at its first bytes."""
        items = Items()
        items.receive(bytes.fromhex("a1675061796c6f6164") + b"\x5a" + (100 << 20).to_bytes(4, "big"))
        self.assertRaises(PluginError, items.take)

    def test_creeping_flood(self) -> None:
        """So is one of chunks, and one of ever more small parts; quickly."""
        chunk = b"\x59\xff\xff" + bytes(65535)
        for start, part in ((b"\x5f", chunk), (b"\x9f", bytes(65536)), (b"\x81", b"\x81" * 99)):
            items = Items()
            items.receive(start)
            began = time.monotonic()
            with self.assertRaises(PluginError):
                for _ in range(1600):
                    items.receive(part)
                    self.assertIsNone(items.take())
            self.assertLess(len(items), MAX_ITEM + 65536 * 2)
            self.assertLess(time.monotonic() - began, 2)

    def test_largest(self) -> None:
        """A string that just fits passes, byte by byte at the end."""
        raw = cbor2.dumps(bytes(MAX_ITEM - 5))
        items = Items()
        items.receive(raw[:-1])
        self.assertIsNone(items.take())
        items.receive(raw[-1:])
        self.assertEqual(items.take(), raw)

    def test_depth(self) -> None:
        """Nesting is bounded."""
        items = Items()
        items.receive(b"\x81" * (MAX_DEPTH + 1))
        self.assertRaises(PluginError, items.take)

    def test_framed_and_refused(self) -> None:
        """What frames well may be no CBOR yet: a key without a value, a simple value in the wrong length."""
        for item in map(bytes.fromhex, ("bf6141ff", "f814", "61ff", "7f61c361a9ff", "e0")):
            items = Items()
            items.receive(item)
            self.assertEqual(items.take(), item)
            self.assertRaises(PluginError, decode, item)

    def test_deepest(self) -> None:
        """What is cut out of the stream at its limits is read as well."""
        for item in (b"\x81" * MAX_DEPTH + b"\xa0", b"\x9f" + b"\xc1" * (MAX_DEPTH - 1) + b"\x80\xff"):
            items = Items()
            items.receive(item)
            self.assertEqual(items.take(), item)
            decode(item)
        most = b"\x99" + (MAX_HEADS - 1).to_bytes(2, "big") + bytes(MAX_HEADS - 1)
        items = Items()
        items.receive(most)
        self.assertEqual(decode(items.take() or b""), [0] * (MAX_HEADS - 1))


def _indefinite(value: Any) -> bytes:
    if isinstance(value, list):
        return b"\x9f" + b"".join(map(_indefinite, value)) + b"\xff"
    if isinstance(value, dict):
        return b"\xbf" + b"".join(_indefinite(k) + _indefinite(v) for k, v in value.items()) + b"\xff"
    if isinstance(value, bytes):
        return b"\x5f" + cbor2.dumps(value[:3]) + cbor2.dumps(value[3:]) + b"\xff"
    if isinstance(value, str):
        return b"\x7f" + cbor2.dumps(value) + b"\xff"
    return cbor2.dumps(value)
