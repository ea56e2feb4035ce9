"""AEZ against its vectors, over the native core with and without AES instructions and the twin."""

from __future__ import annotations

import hashlib
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.crypto import aez
from katzentwist.crypto.native import native
from katzentwist.errors import CryptoError
from tests.vectorfiles import load, unhex


class TwinTests(SynchronousTestCase):
    """The pure-Python form."""

    def encrypt(self, key: bytes, nonce: bytes, ad: list[bytes], tau: int, message: bytes) -> bytes:
        """One call of the form under test."""
        return aez.Aez(key).encrypt(nonce, ad, tau, message)

    def decrypt(self, key: bytes, nonce: bytes, ad: list[bytes], tau: int, ciphertext: bytes) -> bytes:
        """One call of the form under test."""
        return aez.Aez(key).decrypt(nonce, ad, tau, ciphertext)

    @staticmethod
    def setting(case: dict[str, Any]) -> tuple[bytes, bytes, list[bytes], int]:
        """(key, nonce, associated data, tau) of a vector."""
        return unhex(case["key"]), unhex(case["nonce"]), [unhex(text) for text in case["ad"]], case["tau"]

    def test_cases(self) -> None:
        """All lengths of message, key, nonce and associated data, both ways."""
        for case in load("aez")["cases"]:
            setting = self.setting(case)
            self.assertEqual(self.encrypt(*setting, unhex(case["pt"])).hex(), case["ct"])
            self.assertEqual(self.decrypt(*setting, unhex(case["ct"])).hex(), case["pt"])

    def test_big(self) -> None:
        """Long messages."""
        for case in load("aez")["big"]:
            setting = self.setting(case)
            plain = hashlib.shake_256(unhex(case["pt_shake256_seed"])).digest(case["pt_len"])
            sealed = self.encrypt(*setting, plain)
            self.assertEqual(hashlib.sha256(sealed).hexdigest(), case["ct_sha256"])
            self.assertEqual((sealed[:32].hex(), sealed[-32:].hex()), (case["ct_head"], case["ct_tail"]))
            self.assertEqual(self.decrypt(*setting, sealed), plain)

    def test_rejected(self) -> None:
        """What must not decrypt does not."""
        for case in load("aez")["reject"]:
            self.assertRaises(CryptoError, self.decrypt, *self.setting(case), unhex(case["ct"]))


class NativeTests(TwinTests):
    """The native core."""

    skip = None if native is not None else "the native core is not built"

    def encrypt(self, key: bytes, nonce: bytes, ad: list[bytes], tau: int, message: bytes) -> bytes:
        """The public function."""
        return aez.encrypt(key, nonce, ad, tau, message)

    def decrypt(self, key: bytes, nonce: bytes, ad: list[bytes], tau: int, ciphertext: bytes) -> bytes:
        """The public function."""
        return aez.decrypt(key, nonce, ad, tau, ciphertext)


class PortableTests(NativeTests):
    """The native core without AES instructions."""

    def setUp(self) -> None:
        assert native is not None
        native.force_portable(True)
        self.addCleanup(native.force_portable, False)


class IntermediateTests(SynchronousTestCase):
    """The parts of the twin, one by one."""

    def test_vectors(self) -> None:
        """Key extraction, multiples, AEZ-hash and the block functions."""
        for case in load("aez")["intermediate"]:
            extracted = aez.extract_key(unhex(case["key"]))
            self.assertEqual(extracted.hex(), case["extracted"])
            cipher = aez.Aez(unhex(case["key"]))
            i, j, multiples = cipher._i, cipher._j, cipher._l
            self.assertEqual([i, aez._times(2, i)], [int(block, 16) for block in case["I"]])
            self.assertEqual([aez._times(n, j) for n in (1, 2, 4)], [int(block, 16) for block in case["J"]])
            self.assertEqual(multiples, [int(block, 16) for block in case["L"]])
            delta = cipher.hash(case["tau"], unhex(case["nonce"]), [unhex(text) for text in case["ad"]])
            self.assertEqual(delta, int(case["delta"], 16))
            for keys, name in ((cipher._aes4, "aes4"), (cipher._aes10, "aes10")):
                block = 0
                for part in case[f"{name}_in"]:
                    block ^= int(part, 16)
                self.assertEqual(aez._rounds(aez._block(block), keys).hex(), case[f"{name}_out"])

    def test_worked_values(self) -> None:
        """A few values of spec section 10."""
        cipher = aez.Aez(bytes(range(48)))
        self.assertEqual(f"{cipher.e(0, 0, 0):032x}", "6253cd5ff098ecc5314cf73083aeef6f")
        self.assertEqual(
            f"{cipher.e(1, 9, int.from_bytes(bytes(range(16)), 'big')):032x}", "c9a75af04c45b7cbff21e759447da49e"
        )
        self.assertEqual(f"{cipher.e(-1, 3, 0):032x}", "0ad30797f1bb3d723aeb3131b8f0baac")

    def test_sphinx_use(self) -> None:
        """Encrypting and decrypting are inverse, and lengths are checked."""
        key, iv = bytes(range(48)), bytes(range(16))
        self.assertEqual(aez.sprp_decrypt(key, iv, aez.sprp_encrypt(key, iv, b"x" * 100)), b"x" * 100)
        self.assertRaises(CryptoError, aez.sprp_encrypt, key[1:], iv, bytes(32))
        self.assertRaises(CryptoError, aez.sprp_decrypt, key, iv[1:], bytes(32))
