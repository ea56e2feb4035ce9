"""The thin client protocol, against client.json and client_dialogue.json (spec: client 8 to 12, 15, 18, 20 point 1)."""

from __future__ import annotations

from typing import Any

import cbor2
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.sphinx import Geometry
from katzentwist.thin import protocol, requests
from katzentwist.thin.errors import error_text
from katzentwist.thin.protocol import FrameBuffer, FrameError
from katzentwist.thin.requests import Unsupported
from tests.vectorfiles import load

VECTORS = load("client")
DIALOGUE = load("client_dialogue")
STRICTER = {"top_level_null", "array_of_ints_for_id"}
"""Odd input that the Go daemon takes, or crashes on, and ours refuses (spec: client 8)."""
WRONG_SURB_ID = {"short_id_zero_padded", "long_id_truncated"}
"""The Go daemon makes 16 bytes of these; ours takes them for missing, and says so (spec: client 10.2)."""
ID = bytes(range(16))


def plain(value: Any) -> Any:
    """Bytes in place of "0x..."."""
    if isinstance(value, str) and value.startswith("0x"):
        return bytes.fromhex(value[2:])
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value


def in_order(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """The maps inside a response with their keys as the page orders them; JSON has sorted them."""
    if name == "connection_status_event":
        geometry = {k: fields["sphinx_geometry"][k] for k in protocol.GEOMETRY_KEYS}
        pigeonhole = protocol.pigeonhole_geometry(geometry["UserForwardPayloadLength"])
        fields = {**fields, "sphinx_geometry": geometry, "pigeonhole_geometry": pigeonhole}
    if fields.get("authorities"):
        entries = [{k: a[k] for k in protocol.AUTHORITY_FIELDS} for a in fields["authorities"]]
        fields = {**fields, "authorities": entries}
    return fields


class VectorTests(SynchronousTestCase):
    """client.json."""

    def test_key_order(self) -> None:
        """The tables have the keys of Go, in its order."""
        self.assertEqual(list(protocol.REQUESTS), VECTORS["request_key_order"])
        self.assertEqual(list(protocol.RESPONSES), VECTORS["response_key_order"])

    def test_requests(self) -> None:
        """Every request is written byte for byte, and read."""
        for case in VECTORS["requests"]:
            frame = bytes.fromhex(case["frame"])
            request = requests.parse_request(frame[4:])
            self.assertEqual(request is None, not case["decoded"], case["name"])
            for name, fields in plain(case["decoded"]).items():
                self.assertEqual(protocol.encode_request(name, **fields), frame, case["name"])

    def test_responses(self) -> None:
        """Every response is written byte for byte, and read."""
        for case in VECTORS["responses"]:
            frame = bytes.fromhex(case["frame"])
            [(name, fields)] = plain(case["decoded"]).items()
            self.assertEqual(protocol.encode_response(name, **in_order(name, fields)), frame, case["name"])
            self.assertEqual(protocol.parse_response(frame[4:]), (name, fields), case["name"])

    def test_odd_input(self) -> None:
        """What Go makes of odd input, or a clean refusal where the page says so."""
        for case in VECTORS["decode"]:
            blob = bytes.fromhex(case["blob"])
            if not case["ok"] or case["name"] in STRICTER:
                self.assertRaises(FrameError, requests.parse_request, blob)
                continue
            request = requests.parse_request(blob)
            if case["name"] in ("top_level_empty_map", "thin_close_null"):
                self.assertIsNone(request)
            else:
                [value] = plain(case["value"]).values()
                token = getattr(request, "token", None)
                seen = token if token is not None else request.payload  # type: ignore[union-attr]
                self.assertIn(seen, value.values(), case["name"])
            if case["name"] in WRONG_SURB_ID:
                self.assertIsNone(request.surb_id)  # type: ignore[union-attr]

    def test_pigeonhole_geometry(self) -> None:
        """Computed from the payload length, with the keys that published clients insist on, in order."""
        for case in VECTORS["pigeonhole_geometry"]:
            made = protocol.pigeonhole_geometry(case["user_forward_payload_length"])
            self.assertEqual(list(made.items()), list(case["pigeonhole"].items()))

    def test_unsupported(self) -> None:
        """Each of the 16 Pigeonhole and voucher requests gets the error reply of the vectors."""
        expected = {c["name"]: c for c in VECTORS["responses"] if c["name"].endswith("_reply_error")}
        self.assertEqual(len(expected), 14 + 2)
        for name, case in expected.items():
            [(reply, fields)] = plain(case["decoded"]).items()
            request = protocol.frame(cbor2.dumps({reply.removesuffix("_reply"): {"query_id": fields["query_id"]}}))
            parsed = requests.parse_request(request[4:])
            assert isinstance(parsed, Unsupported)
            self.assertEqual((requests.refuse_unsupported(parsed) or b"").hex(), case["frame"], name)

    def test_unsupported_without_id(self) -> None:
        """A request that nobody could match is dropped."""
        for query in (None, b"short", 7):
            parsed = requests.parse_request(cbor2.dumps({"new_keypair": {"query_id": query}}))
            assert isinstance(parsed, Unsupported)
            self.assertIsNone(requests.refuse_unsupported(parsed))


class DialogueTests(SynchronousTestCase):
    """client_dialogue.json: a recorded conversation with the Go daemon."""

    def test_every_frame(self) -> None:
        """Parsed, and written again byte for byte."""
        for connection in DIALOGUE["connections"]:
            for item in connection["frames"]:
                frame = bytes.fromhex(item["frame"])
                buffer = FrameBuffer()
                buffer.feed(frame)
                message = buffer.next()
                assert message is not None
                if item["dir"] == "d2c":
                    name, fields = protocol.parse_response(message) or ("", {})
                    self.assertEqual(protocol.encode_response(name, **fields), frame)
                else:
                    self.assertIsNotNone(requests.parse_request(message))
                    # The Python client writes one key only.
                    self.assertEqual(protocol.frame(cbor2.dumps(protocol.decode_message(message))), frame)

    def test_geometry(self) -> None:
        """Our connection status has the bytes of the recorded one."""
        recorded = bytes.fromhex(DIALOGUE["connections"][0]["frames"][0]["frame"])
        _, fields = protocol.parse_response(recorded[4:]) or ("", {})
        geometry = Geometry.from_user_payload(2000, 5, nike="x25519")
        ours = protocol.encode_response(
            "connection_status_event",
            is_connected=fields["is_connected"],
            instance_token=fields["instance_token"],
            sphinx_geometry=protocol.sphinx_geometry(geometry),
            pigeonhole_geometry=protocol.pigeonhole_geometry(2000),
        )
        self.assertEqual(ours, recorded)


class RequestTests(SynchronousTestCase):
    """Rules of the page that no vector shows."""

    def test_first_key_wins(self) -> None:
        """Of several requests in one map, the first in the order of the table."""
        blob = cbor2.dumps({"get_directory_authorities": {"query_id": ID}, "thin_close": {}})
        self.assertEqual(requests.parse_request(blob), requests.ThinClose())

    def test_extension(self) -> None:
        """A reliable message is written and read."""
        frame = protocol.encode_request(
            "send_arq_message",
            id=ID,
            with_surb=True,
            destination_id_hash=bytes(32),
            recipient_queue_id=b"+echo",
            payload=b"x",
        )
        request = requests.parse_request(frame[4:])
        assert isinstance(request, requests.SendMessage)
        self.assertTrue(request.arq)
        self.assertEqual((request.id, request.payload), (ID, b"x"))

    def test_texts(self) -> None:
        """Error codes read as on the page."""
        self.assertEqual(error_text(5), "Maximum retries exceeded")
        self.assertEqual(error_text(32), "Courier rejected the envelope: replica epoch outside tolerance window")
        self.assertEqual(error_text(33), "Unknown thin client error code: 33")


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64 - 1) | st.binary(max_size=40) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
NAMES = st.sampled_from([*protocol.REQUESTS, *protocol.EXTENSIONS])
FIELDS = st.sampled_from(sorted({f for fields in protocol.REQUEST_FIELDS.values() for f in fields} | {"query_id"}))


class HostileTests(SynchronousTestCase):
    """Whatever comes, the answer is a value or a FrameError."""

    def check(self, blob: bytes) -> None:
        """Parse as both sides do."""
        for parse in (requests.parse_request, protocol.parse_response):
            try:
                parse(blob)
            except FrameError:
                continue

    @given(st.binary(max_size=200))
    def test_any_bytes(self, blob: bytes) -> None:
        """Random bytes."""
        self.check(blob)

    @given(JSONISH)
    def test_any_cbor(self, value: Any) -> None:
        """Well-formed CBOR of any shape."""
        self.check(cbor2.dumps(value))

    @given(NAMES, st.dictionaries(FIELDS, JSONISH))
    def test_any_fields(self, name: str, fields: dict[str, Any]) -> None:
        """Known requests with fields of any type."""
        self.check(cbor2.dumps({name: fields}))

    @given(st.data())
    def test_mutated(self, data: st.DataObject) -> None:
        """Vectors with one byte changed or cut short."""
        case = data.draw(st.sampled_from(VECTORS["requests"] + VECTORS["responses"]))
        blob = bytearray(bytes.fromhex(case["frame"])[4:][:2000])
        at = data.draw(st.integers(0, len(blob) - 1))
        blob[at] = data.draw(st.integers(0, 255))
        self.check(bytes(blob[: data.draw(st.integers(0, len(blob)))]))

    @given(st.lists(st.binary(min_size=1, max_size=50), max_size=6), st.data())
    def test_framing(self, messages: list[bytes], data: st.DataObject) -> None:
        """Messages come out as they went in, however the stream is cut."""
        stream = b"".join(protocol.frame(m) for m in messages)
        buffer, out = FrameBuffer(), []
        while stream:
            cut = data.draw(st.integers(1, len(stream)))
            buffer.feed(stream[:cut])
            stream = stream[cut:]
            out += list(buffer)
        self.assertEqual(out, messages)
        self.assertEqual(len(buffer), 0)

    def test_lengths(self) -> None:
        """Zero and more than 40 MiB are refused before anything is read; 40 MiB is not."""
        for size, good in ((0, False), (protocol.MAX_FRAME + 1, False), (protocol.MAX_FRAME, True)):
            buffer = FrameBuffer()
            buffer.feed(size.to_bytes(4, "big"))
            if good:
                self.assertIsNone(buffer.next())
            else:
                self.assertRaises(FrameError, buffer.next)

    def test_many_items(self) -> None:
        """What would hold up other applications is not read to its end; what legitimate lists need is."""
        for count, good in ((60_000, True), (70_000, False)):
            blob = cbor2.dumps({"thin_close": {}, "colours": [0] * count})
            if good:
                self.assertIsInstance(requests.parse_request(blob), requests.ThinClose)
            else:
                self.assertRaises(FrameError, requests.parse_request, blob)

    def test_bombs(self) -> None:
        """Deep nesting, and lengths that are not there, cost nothing."""
        for blob in (b"\x81" * 100_000, b"\x9f" * 50_000, b"\x5b" + b"\xff" * 8, b"\xbb" + b"\xff" * 8, b"\xc0" * 9999):
            self.assertRaises(FrameError, requests.parse_request, blob)
