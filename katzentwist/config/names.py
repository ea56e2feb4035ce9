"""Names: identifiers of nodes, endpoints of services, user names (spec: node 2.1 and 7.1, provider 2.1)."""

from __future__ import annotations

import re

import attrs
import idna
import precis_i18n

from katzentwist.errors import ConfigError

MAX_NAME = 32
"""Bytes of a descriptor's name, of an endpoint, and of a user name."""

_DOT_ATOM = re.compile(r"[^\s\x00-\x20\x7f()<>@,;:\\\".\[\]]+(\.[^\s\x00-\x20\x7f()<>@,;:\\\".\[\]]+)*")
_username_case_mapped = precis_i18n.get_profile("UsernameCaseMapped")
_username_case_preserved = precis_i18n.get_profile("UsernameCasePreserved")


def normalize_identifier(text: str) -> str:
    """The name that goes into the descriptor: IDNA lookup form, ASCII, at most 32 bytes.

    :raises ConfigError: the text can not be such a name.
    """
    try:
        ascii_form = idna.encode(text, uts46=True, std3_rules=True).decode("ascii")
    except (idna.IDNAError, UnicodeError) as e:
        raise ConfigError(f"Failed to normalize Identifier: {text!r}: {e}") from e
    if any(label[2:4] == "--" and not label.startswith("xn--") for label in ascii_form.split(".")):
        raise ConfigError(f"Failed to normalize Identifier: {text!r} has hyphens as its third and fourth letter")
    if len(ascii_form) > MAX_NAME:
        raise ConfigError(
            f"Identifier {ascii_form!r} has {len(ascii_form)} bytes, authorities take at most {MAX_NAME}; shorten it"
        )
    return ascii_form


def case_mapped(text: str) -> str | None:
    """The PRECIS UsernameCaseMapped form (RFC 8265), or None where the profile refuses the text."""
    try:
        return str(_username_case_mapped.enforce(text))
    except UnicodeEncodeError:
        return None


def check_endpoint(capability: str, endpoint: str) -> None:
    """The rule for service endpoints.

    :raises ConfigError: not a lower-case local part of a mail address of 1 to 32 bytes.
    """
    if not endpoint:
        raise ConfigError(f"Kaetzchen: '{capability}' has non local-part endpoint '': write for example +{capability}")
    mapped = case_mapped(endpoint)
    if mapped is None:
        raise ConfigError(f"Kaetzchen: '{capability}' has invalid endpoint: {endpoint!r} has forbidden characters")
    if mapped != endpoint:
        raise ConfigError(f"Kaetzchen: '{capability}' has non-normalized endpoint {endpoint}; write {mapped!r}")
    if not _DOT_ATOM.fullmatch(endpoint):
        raise ConfigError(f"Kaetzchen: '{capability}' has non local-part endpoint '{endpoint}'")
    if len(endpoint.encode()) > MAX_NAME:
        raise ConfigError(
            f"Kaetzchen: '{capability}' has invalid endpoint: '{endpoint}' is longer than {MAX_NAME} bytes"
        )


@attrs.frozen(kw_only=True)
class UserNames:
    """The one form of each user name (spec: provider 2.1).

    :ivar binary: ``BinaryRecipients``: names are any bytes, padding included.
    :ivar case_sensitive: ``CaseSensitiveRecipients``.
    :ivar delimiter: ``RecipientDelimiter``; what follows it in a recipient id is not part of the name.
    """

    binary: bool = False
    case_sensitive: bool = False
    delimiter: str = ""

    def canonical(self, name: bytes) -> bytes | None:
        """The name that a handshake gives; None if it is no name."""
        stripped = name.rstrip(b"\0")
        if not stripped or len(name if self.binary else stripped) > MAX_NAME:
            return None
        return name if self.binary else self._mapped(stripped) or stripped

    def of_recipient(self, recipient: bytes) -> bytes | None:
        """The user that a recipient id means."""
        name = self.canonical(recipient)
        if name is None or not self.delimiter:
            return name
        at = name.find(self.delimiter.encode())
        return name[:at] if at > 0 else name

    def of_command(self, text: str) -> bytes | None:
        """The user that a management command names, of any length; None if the text is no legal name at all."""
        raw = text.encode("utf-8", "surrogateescape")
        return raw or None if self.binary else self._mapped(raw, check_length=False)

    def _mapped(self, raw: bytes, check_length: bool = True) -> bytes | None:
        profile = _username_case_preserved if self.case_sensitive else _username_case_mapped
        try:
            encoded = str(profile.enforce(raw.decode("utf-8"))).encode()
        except UnicodeError:
            return None
        return None if check_length and len(encoded) > MAX_NAME else encoded
