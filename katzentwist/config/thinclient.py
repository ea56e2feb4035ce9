"""``thinclient.toml``: one table, one transport, nothing else (spec: client 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from katzentwist.config import kinds
from katzentwist.config.addresses import check_hostport
from katzentwist.config.client import Socket
from katzentwist.config.kinds import FileKind
from katzentwist.config.schema import Report
from katzentwist.errors import ConfigError

_KEYS: Final = {"Tcp": {"Address", "Network"}, "Unix": {"Address"}, "Ws": {"Address"}}
_NETWORKS: Final = ("tcp", "tcp4", "tcp6")


@attrs.frozen(kw_only=True)
class ThinClientConfig:
    """Where the daemon listens."""

    dial: Socket


def load(text: str) -> tuple[ThinClientConfig | None, Report]:
    """The configuration from the text of its file; None exactly when the report has errors.

    Every key that is not in the table of the page is an error, as in the published libraries.
    """
    report = Report()
    try:
        return ThinClientConfig(dial=_dial(kinds.parse(text, FileKind.THIN_CLIENT))), report
    except ConfigError as e:
        report.errors.append(e)
        return None, report


def _dial(raw: Mapping[str, Any]) -> Socket:
    if unknown := _beyond(raw, ["Dial"]):
        raise ConfigError(f"unknown top-level key(s) {unknown}; expected exactly ['Dial']")
    if "Dial" not in raw:
        raise ConfigError("missing required top-level key(s) ['Dial']")
    return _transport(_table(raw["Dial"], "Dial"))


def _transport(dial: Mapping[str, Any]) -> Socket:
    if unknown := _beyond(dial, _KEYS):
        raise ConfigError(f"unknown subtable(s) {unknown}; expected one of {sorted(_KEYS)}", "Dial")
    if not dial:
        raise ConfigError("transport: no dial transport configured", "Dial")
    if len(dial) > 1:
        raise ConfigError("transport: exactly one dial transport must be configured", "Dial")
    [(kind, value)] = dial.items()
    path = f"Dial.{kind}"
    table = _table(value, path)
    if unknown := _beyond(table, _KEYS[kind]):
        raise ConfigError(f"has unknown key(s) {unknown}; expected {sorted(_KEYS[kind])}", path)
    if not table.get("Address"):
        raise ConfigError("missing required key 'Address'", path)
    if not all(isinstance(v, str) for v in table.values()):
        raise ConfigError("all values must be text", path)
    return _socket(kind, table, path)


def _socket(kind: str, table: Mapping[str, Any], path: str) -> Socket:
    if kind == "Ws":
        raise ConfigError("websockets are not in this version; use Tcp or Unix", path)
    if kind == "Unix":
        return Socket(network="unix", address=table["Address"])
    network = table.get("Network", "tcp")
    if network not in _NETWORKS:
        raise ConfigError(f'transport: TcpDialConfig.Network "{network}" is not one of {", ".join(_NETWORKS)}', path)
    try:
        check_hostport(table["Address"], allow_hostnames=True)
    except ConfigError as e:
        raise ConfigError(str(e), f"{path}.Address") from e
    return Socket(network=network, address=table["Address"])


def _beyond(table: Mapping[str, Any], known: Iterable[str]) -> list[str]:
    return sorted(set(table) - set(known))


def _table(value: Any, path: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError("must be a table", path)
    return value
