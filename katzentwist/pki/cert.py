"""The certificate container: a payload, an expiry epoch, and any number of signatures (spec: pki 4).

==============  ==============================================================================
key             value, in canonical order
==============  ==============================================================================
``KeyType``     text, exact name of the signature scheme
``Version``     uint, 0
``Certified``   bytes, the payload
``Expiration``  uint, first epoch in which the certificate is no longer valid
``Signatures``  map: id of the signer (32) -> {``Payload``: signature, ``PublicKeySum256``: id}
==============  ==============================================================================

Signed is ``le32(Version) || le64(Expiration) || KeyType || Certified``. All functions take and give containers as
bytes, as they travel; *now* is the current epoch.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property

import attrs

from katzentwist.cbor import Value
from katzentwist.crypto.copies import join
from katzentwist.crypto.keys import identity_hash
from katzentwist.crypto.sign import by_name
from katzentwist.errors import PKIError
from katzentwist.pki import cbor

SCHEME = by_name("Ed25519")
"""The signature scheme of the PKI; the only one that is supported (spec: pki 3)."""

_NAMES = cbor.names(("KeyType", "Version", "Certified", "Expiration", "Signatures"))
_SIGNATURE_NAMES = cbor.names(("Payload", "PublicKeySum256"))
_PREFIX = struct.Struct("<IQ")


@attrs.frozen
class Signature:
    """A detached signature (spec: pki 4.1).

    :ivar payload: the raw signature.
    :ivar signer: id of the signer's public key, 32 bytes.
    """

    payload: bytes
    signer: bytes

    @classmethod
    def make(cls, private: bytes, message: bytes) -> Signature:
        """Sign *message* with *private* (64 bytes)."""
        return cls(SCHEME.sign(private, message), identity_hash(private[-SCHEME.public_key_size :]))

    @classmethod
    def parse(cls, raw: bytes) -> Signature:
        """Read a serialised signature."""
        return cls.from_value(cbor.decode(raw))

    @classmethod
    def from_value(cls, value: Value) -> Signature:
        """Read a decoded signature map."""
        fields = cbor.Fields("signature", value, _SIGNATURE_NAMES)
        return cls(fields.blob("Payload"), fields.blob("PublicKeySum256", 32))

    def to_value(self) -> dict[str, bytes]:
        """The map of the encoder."""
        return {"Payload": self.payload, "PublicKeySum256": self.signer}

    def encode(self) -> bytes:
        """The serialised form."""
        return cbor.encode(self.to_value())


@attrs.frozen
class Verdict:
    """What checking against several keys gave.

    :ivar certified: the payload.
    :ivar good: ids of the keys whose signature is there and right, without repetition, in the order given.
    :ivar bad: ids of the others.
    """

    certified: bytes
    good: tuple[bytes, ...]
    bad: tuple[bytes, ...]


@attrs.frozen(kw_only=True)
class Certificate:
    """A decoded container; not yet checked in any way.

    :ivar signatures: by the map key, which need not be the inner id: only the inner one counts.
    """

    key_type: str
    version: int = 0
    certified: bytes
    expiration: int
    signatures: Mapping[bytes, Signature]

    @classmethod
    def parse(cls, raw: bytes) -> Certificate:
        """Decode a container.

        :raises PKIError: ``impossible to decode``.
        """
        fields = cbor.Fields("certificate", cbor.decode(raw), _NAMES)
        return cls(
            key_type=fields.text("KeyType"),
            version=fields.uint("Version", 2**32),
            certified=fields.blob("Certified"),
            expiration=fields.uint("Expiration"),
            signatures=fields.mapping(
                "Signatures",
                lambda name, key: fields.blob_value(name, key, 32),
                lambda _name, value: Signature.from_value(value),
            ),
        )

    def encode(self) -> bytes:
        """The canonical container."""
        return cbor.encode(
            {
                "KeyType": self.key_type,
                "Version": self.version,
                "Certified": self.certified,
                "Expiration": self.expiration,
                "Signatures": cbor.NULL_MAP
                if cbor.is_null(self.signatures)
                else {signer: signature.to_value() for signer, signature in self.signatures.items()},
            }
        )

    @cached_property
    def message(self) -> bytes:
        """What every signer signs (spec: pki 4.2)."""
        return join([_PREFIX.pack(self.version, self.expiration), self.key_type.encode(), self.certified])

    def check(self, now: int) -> None:
        """The sanity check, the first step of every operation (spec: pki 4.3).

        :raises PKIError: wrong version, expired, no key type, no payload.
        """
        if self.version != 0:
            raise PKIError("certificate version mismatch")
        if now >= self.expiration:
            raise PKIError("certificate expired")
        if not self.key_type:
            raise PKIError("invalid certificate key type")
        if not self.certified:
            raise PKIError("invalid certified field of certificate")

    def verify(self, public: bytes) -> None:
        """Check the signature of *public*, without the sanity check.

        :raises PKIError: it is not there, or wrong.
        """
        signer = identity_hash(public)
        for signature in self.signatures.values():
            if signature.signer == signer:
                if SCHEME.verify(public, self.message, signature.payload):
                    return
                raise PKIError("signature does not sign certificate")
        raise PKIError("failure to find signature associated with the given identity")

    def verdict(self, keys: Iterable[bytes]) -> Verdict:
        """Check the signatures of all *keys*, without the sanity check and without a threshold."""
        good: dict[bytes, None] = {}
        bad: dict[bytes, None] = {}
        for public in keys:
            try:
                self.verify(public)
            except PKIError:
                bad[identity_hash(public)] = None
            else:
                good[identity_hash(public)] = None
        return Verdict(self.certified, tuple(good), tuple(bad))


def _checked(raw: bytes, now: int) -> Certificate:
    certificate = Certificate.parse(raw)
    certificate.check(now)
    return certificate


def sign(private: bytes, certified: bytes, expiration: int, now: int, scheme: str = SCHEME.name) -> bytes:
    """A new container with one signature.

    :raises PKIError: *certified* is empty, or *expiration* is not in the future.
    """
    certificate = Certificate(key_type=scheme, certified=certified, expiration=expiration, signatures={})
    certificate.check(now)
    signature = Signature.make(private, certificate.message)
    return attrs.evolve(certificate, signatures={signature.signer: signature}).encode()


def sign_also(private: bytes, raw: bytes, now: int, scheme: str = SCHEME.name) -> bytes:
    """*raw* with our own signature added, or replaced. The others are kept unchecked.

    :raises PKIError: no sane container, or one of another scheme.
    """
    certificate = _checked(raw, now)
    if certificate.key_type != scheme:
        raise PKIError("certificate key type mismatch")
    signature = Signature.make(private, certificate.message)
    return attrs.evolve(certificate, signatures={**certificate.signatures, signature.signer: signature}).encode()


def add_signature(raw: bytes, public: bytes, signature: Signature, now: int) -> bytes:
    """*raw* with somebody else's signature added.

    :raises PKIError: no sane container, signed by that id already, or a wrong signature.
    """
    certificate = _checked(raw, now)
    if signature.signer in certificate.signatures:
        raise PKIError("signature must not be duplicate")
    merged = attrs.evolve(certificate, signatures={**certificate.signatures, signature.signer: signature})
    if signature.signer != identity_hash(public) or not SCHEME.verify(public, merged.message, signature.payload):
        raise PKIError("signature does not sign certificate")
    return merged.encode()


def verify(raw: bytes, public: bytes, now: int) -> bytes:
    """The payload, if *public* signed it.

    :raises PKIError: no sane container, no signature of this key, a wrong one.
    """
    certificate = _checked(raw, now)
    certificate.verify(public)
    return certificate.certified


def verify_all(raw: bytes, keys: Iterable[bytes], now: int) -> bytes:
    """The payload, if every one of *keys* signed it; empty for no keys at all.

    :raises PKIError: the first failure.
    """
    certified = b""
    for public in keys:
        certified = verify(raw, public, now)
    return certified


def verify_threshold(raw: bytes, keys: Sequence[bytes], threshold: int, now: int) -> Verdict:
    """The payload, if at least *threshold* distinct keys among *keys* signed it.

    :raises PKIError: too few did, or the container is not sane.
    """
    if threshold > len(keys):
        raise PKIError("threshold must be equal or less than the number of verifiers")
    try:
        verdict = _checked(raw, now).verdict(keys)
    except PKIError as error:
        raise PKIError(f"threshold failure: {error}") from None
    if len(verdict.good) < threshold:
        raise PKIError(f"threshold failure: {len(verdict.good)} of {threshold} signatures")
    return verdict


def get_certified(raw: bytes, now: int) -> bytes:
    """The payload, whoever signed it.

    :raises PKIError: no sane container.
    """
    return _checked(raw, now).certified
