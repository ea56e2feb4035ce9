"""Which kind of configuration file a text is, by the tables that only such a file has."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from katzentwist.config import toml
from katzentwist.config.schema import lookup
from katzentwist.errors import ConfigError


class FileKind(Enum):
    """The kinds, in words, in the order in which files are told apart."""

    THIN_CLIENT = "thin client"
    CLIENT = "client"
    AUTHORITY = "authority"
    NODE = "node"


_TABLES = {
    FileKind.THIN_CLIENT: ("Dial",),
    FileKind.CLIENT: ("Listen", "PinnedGateways", "VotingAuthority", "NonvotingAuthority"),
    FileKind.AUTHORITY: (
        "Mixes",
        "Providers",
        "GatewayNodes",
        "ServiceNodes",
        "Authorities",
        "Authority",
        "Parameters",
        "Topology",
    ),
    FileKind.NODE: ("PKI",),
}
_IN_WORDS = {
    FileKind.THIN_CLIENT: "the thinclient.toml of applications",
    FileKind.CLIENT: "the client.toml of a client daemon (katzenclient)",
    FileKind.AUTHORITY: "the authority.toml of a directory authority (katzendirauth)",
    FileKind.NODE: "the katzenpost.toml of a node (katzenmix)",
}


def kind_of(tables: Mapping[str, Any]) -> FileKind | None:
    """The kind of a file; None if no table tells."""
    return next((kind for kind in FileKind if _has_tables_of(kind, tables)), None)


def parse(text: str, wanted: FileKind) -> dict[str, Any]:
    """The tables of a file that should be of the kind *wanted*.

    :raises ConfigError: not TOML, or a file of another kind, which would be a list of mistakes that does not help.
    """
    tables = toml.parse(text)
    found = kind_of(tables)
    if found is not None and not _has_tables_of(wanted, tables):
        raise ConfigError(f"this is {_IN_WORDS[found]}; what is needed here is {_IN_WORDS[wanted]}")
    return tables


def _has_tables_of(kind: FileKind, tables: Mapping[str, Any]) -> bool:
    return any(lookup(tables, name) is not None for name in _TABLES[kind])
