"""The certificate container, against pki-cert.json (spec: pki 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto.sign import by_name
from katzentwist.errors import PKIError
from katzentwist.pki import cert
from tests.vectorfiles import load, unhex

VECTORS = load("pki-cert")
NOW = VECTORS["now_epoch"]


def private(seed: str) -> bytes:
    """The private key of a vector's seed."""
    return by_name("Ed25519").keypair_from_seed(unhex(seed))[0]


def outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """(value, "") or (None, text of the PKIError)."""
    try:
        return function(*args), ""
    except PKIError as error:
        return None, str(error)


def same_error(expected: str, got: str) -> bool:
    """Whether two error texts mean the same. Go says "impossible to encode" in places for "impossible to decode"."""
    expected = expected.replace("to encode", "to decode")
    return got.startswith(expected) if expected else not got


class CertificateTests(SynchronousTestCase):
    """Every operation on containers."""

    def test_sign(self) -> None:
        """New containers have the bytes of the reference."""
        for case in VECTORS["sign"]:
            raw = cert.sign(private(case["seed"]), unhex(case["certified"]), case["expiration"], NOW)
            self.assertEqual(raw.hex(), case["cert"])

    def test_sign_errors(self) -> None:
        """What would be expired or empty is not signed."""
        key = private(VECTORS["keys"][0]["seed"])
        for case in VECTORS["sign_errors"]:
            expiration = NOW + case["expiration_minus_now"]
            _, error = outcome(cert.sign, key, unhex(case["certified"]), expiration, NOW)
            self.assertTrue(same_error(case["error"], error), (case["name"], error))

    def test_sign_also(self) -> None:
        """Adding the own signature gives the bytes of the reference, or its error."""
        for case in VECTORS["sign_multi"]:
            self.assertEqual(cert.sign_also(private(case["seed"]), unhex(case["in"]), NOW).hex(), case["out"])
        for case in VECTORS["sign_multi_errors"]:
            _, error = outcome(cert.sign_also, private(case["seed"]), unhex(case["in"]), NOW)
            self.assertTrue(same_error(case["error"], error), (case["name"], error))

    def test_add_signature(self) -> None:
        """Adding a foreign signature checks it first."""
        for case in VECTORS["add_signature"]:
            signature = cert.Signature(unhex(case["sig"]), unhex(case["sig_id"]))
            raw, error = outcome(cert.add_signature, unhex(case["in"]), unhex(case["key"]), signature, NOW)
            self.assertTrue(same_error(case["error"], error), (case["name"], error))
            if raw is not None:
                self.assertEqual(raw.hex(), case["out"])

    def test_signature_marshal(self) -> None:
        """Detached signatures have their own serialised form."""
        for case in VECTORS["signature_marshal"]:
            signature = cert.Signature(unhex(case["payload"]), unhex(case["id"]))
            self.assertEqual(signature.encode().hex(), case["cbor"])
            self.assertEqual(cert.Signature.parse(unhex(case["cbor"])), signature)

    def test_verify_all(self) -> None:
        """All keys must have signed."""
        for case in VECTORS["verify_all"]:
            payload, error = outcome(cert.verify_all, unhex(case["cert"]), [unhex(k) for k in case["keys"]], NOW)
            self.assertTrue(same_error(case["error"], error), error)
            if payload is not None:
                self.assertEqual(payload, unhex(case["certified"]))

    def test_cases(self) -> None:
        """Payload, single verification and thresholds of good and of odd containers."""
        for case in VECTORS["cases"]:
            raw = unhex(case["cert"])
            if case["tolerated"]:
                self.assertRaises(PKIError, cert.Certificate.parse, raw)
                continue
            payload, error = outcome(cert.get_certified, raw, NOW)
            self.assertTrue(same_error(case["get"]["error"], error), (case["name"], error))
            if payload is not None:
                self.assertEqual(payload, unhex(case["get"]["certified"]))
                self.assertEqual(len(cert.Certificate.parse(raw).signatures), case["get"]["signature_count"])
            for check in case["verify"]:
                payload, error = outcome(cert.verify, raw, unhex(check["key"]), NOW)
                self.assertTrue(same_error(check["error"], error), (case["name"], check["error"], error))
            for check in case["threshold"]:
                keys = [unhex(key) for key in check["keys"]]
                verdict, error = outcome(cert.verify_threshold, raw, keys, check["threshold"], NOW)
                if check["threshold"] == 0 and case["get"]["error"]:
                    continue  # Go lets a threshold of nothing pass over anything; ours never asks for one
                self.assertTrue(same_error(check["error"], error), (case["name"], check["error"], error))
                if verdict is not None:
                    self.assertEqual(sorted(key.hex() for key in verdict.good), sorted(check["good"]))
                    self.assertEqual(sorted(key.hex() for key in verdict.bad), sorted(check["bad"]))

    def test_round_trip(self) -> None:
        """Canonical containers come back byte for byte."""
        for case in VECTORS["sign"]:
            raw = unhex(case["cert"])
            self.assertEqual(cert.Certificate.parse(raw).encode(), raw)
