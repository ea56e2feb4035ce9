"""Services and databases of a node file, checked (spec: node 2.3 and 2.4, provider 1.8 and 1.9)."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import attrs

from katzentwist.config import schema
from katzentwist.config.names import check_endpoint
from katzentwist.config.nodetables import (
    KaetzchenTable,
    PluginTable,
    ProviderTable,
    SpoolDBTable,
    SQLDBTable,
    UserDBTable,
)
from katzentwist.config.schema import Report
from katzentwist.errors import ConfigError


@attrs.frozen(kw_only=True)
class Service:
    """A service; *command* is empty for a built-in one, *path* is where it stands in the file."""

    capability: str
    endpoint: str
    disable: bool
    config: dict[str, Any]
    command: str = ""
    max_concurrency: int = 1
    advertised_data: dict[str, Any] | None = None
    protocol: str = "auto"
    path: str = ""


@attrs.frozen(kw_only=True)
class Database:
    """Where something is kept: *backend* is bolt (with *path*), extern (with *url*) or sql (with *dsn*)."""

    backend: str
    path: str = ""
    url: str = ""
    dsn: str = ""


DEEPEST = 8
"""Levels of tables and lists in data for the descriptor."""


def resolve_services(
    kaetzchen: Sequence[KaetzchenTable], plugins: Sequence[PluginTable], path: str, report: Report
) -> tuple[Service, ...]:
    """Both lists, with every mistake noted."""
    out: list[Service] = []
    seen: set[str] = set()
    endpoints: dict[str, str] = {}
    entries: list[tuple[str, KaetzchenTable | PluginTable]] = [
        *((f"{path}.Kaetzchen[{i}]", k) for i, k in enumerate(kaetzchen)),
        *((f"{path}.CBORPluginKaetzchen[{i}]", p) for i, p in enumerate(plugins)),
    ]
    for where, entry in entries:
        service = _service(entry, where, report)
        if not service.capability:
            report.error("Kaetzchen: Capability is invalid: it is empty", f"{where}.Capability")
        elif service.capability in seen:
            report.error(f"Kaetzchen: '{service.capability}' configured multiple times", f"{where}.Capability")
        seen.add(service.capability)
        try:
            check_endpoint(service.capability, service.endpoint)
        except ConfigError as e:
            report.error(str(e), f"{where}.Endpoint")
        if not service.disable:
            other = endpoints.setdefault(service.endpoint, service.capability)
            if other != service.capability:
                report.error(f"endpoint '{service.endpoint}' is already registered by '{other}'", f"{where}.Endpoint")
        out.append(service)
    return tuple(out)


def _service(entry: KaetzchenTable | PluginTable, where: str, report: Report) -> Service:
    if isinstance(entry, KaetzchenTable):
        return Service(
            capability=entry.capability,
            endpoint=entry.endpoint,
            disable=entry.disable,
            config=dict(entry.config),
            path=where,
        )
    if not entry.command:
        report.error("Kaetzchen: Command is invalid: it is empty", f"{where}.Command")
    data = entry.advertised_data.get(entry.capability)
    if data is not None and not isinstance(data, dict):
        report.error("must be a table of tables", f"{where}.PKIAdvertizedData")
        data = None
    _check_publishable(data, f"{where}.PKIAdvertizedData", report)
    return Service(
        capability=entry.capability,
        endpoint=entry.endpoint,
        disable=entry.disable,
        config={k: _argument(v, f"{where}.Config.{k}", report) for k, v in (entry.config or {}).items()},
        command=entry.command or "/nonexistent",
        max_concurrency=max(1, entry.max_concurrency),
        advertised_data=data,
        protocol=entry.protocol,
        path=where,
    )


def _check_publishable(value: Any, path: str, report: Report, depth: int = DEEPEST) -> None:
    """What goes into the descriptor must have a form there: no dates, no numbers beyond 64 bits, no endless nesting."""
    if isinstance(value, (dict, list)):
        if not depth:
            report.error(f"is nested more than {DEEPEST} levels deep", path)
            return
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            _check_publishable(item, f"{path}.{key}", report, depth - 1)
    elif isinstance(value, (datetime.date, datetime.time)):
        report.error("a date or time can not be published; write it as a text", path)
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        report.error("a number of more than 64 bits can not be published", path)


def _argument(value: Any, path: str, report: Report) -> str:
    """A plugin argument as text; numbers and booleans as TOML writes them."""
    if isinstance(value, str) and "\0" not in value + path:
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return str(value)
    report.error("must be a text without NUL, a number or a boolean", path)
    return ""


def provider_plugins(table: ProviderTable, report: Report) -> tuple[PluginTable, ...]:
    """The plugin entries of a Provider, with what the older spelling PluginKaetzchen adds (spec: provider 1.8)."""
    path = "Provider.PluginKaetzchen"
    extra, plugins = table.plugin_kaetzchen, list(table.plugins)
    if extra is None:
        return tuple(plugins)
    if not isinstance(extra, dict):
        return (*plugins, *_listed_plugins(extra, path, report))
    report.unknown.extend(f"{path}.{k}" for k in extra if k.lower() != "config")
    config = schema.lookup(extra, "Config")
    if not isinstance(config, dict):
        return tuple(plugins)
    without = [i for i, p in enumerate(plugins) if p.config is None]
    if not without:
        report.warn(f"{path}.Config is not used: no plugin entry is without a Config of its own")
        return tuple(plugins)
    if len(without) > 1:
        report.warn(f"{path}.Config goes to the last plugin without Config, '{plugins[without[-1]].capability}'")
    plugins[without[-1]] = attrs.evolve(plugins[without[-1]], config=config)
    return tuple(plugins)


def _listed_plugins(extra: Any, path: str, report: Report) -> Sequence[PluginTable]:
    if not isinstance(extra, list):
        report.error("must be a table or an array of tables", path)
        return ()
    try:
        return schema.tables_of(PluginTable)(extra, path, report)  # type: ignore[no-any-return]
    except ConfigError as e:
        report.errors.append(e)
        return ()


def resolve_user_db(table: UserDBTable | None, sql: SQLDBTable | None, data_dir: str, report: Report) -> Database:
    """The user database of a Provider."""
    table = table or UserDBTable()
    path = "Provider.UserDB"
    backend = table.backend.lower() or ("extern" if table.extern is not None and table.bolt is None else "bolt")
    if backend == "bolt":
        name = table.bolt.user_db if table.bolt else "users.db"
        return Database(backend="bolt", path=str(PurePosixPath(data_dir) / name))
    if backend == "extern":
        if table.extern is None:
            report.error("Provider: Extern section should be defined", f"{path}.Extern")
            return Database(backend="extern")
        return Database(backend="extern", url=_provider_url(table.extern.url, f"{path}.Extern.ProviderURL", report))
    if backend == "sql":
        return Database(backend="sql", dsn=_dsn(sql, "UserDB", report))
    report.error(f"Provider: Invalid UserDB Backend: '{table.backend}'; one of bolt, extern, sql", f"{path}.Backend")
    return Database(backend="bolt")


def _provider_url(url: str, path: str, report: Report) -> str:
    if not url:
        report.error("Provider: ProviderURL should be defined for Extern", path)
        return ""
    try:
        parts = urlsplit(url)
        host = parts.hostname
    except ValueError as e:
        report.error(f"Provider: ProviderURL should be a valid url: {e}", path)
        return ""
    if parts.scheme not in ("http", "https"):
        report.error(f"Provider: ProviderURL should be of http schema, not {url!r}", path)
    elif not host:
        report.error(f"Provider: ProviderURL should be a valid url: {url!r} has no host", path)
    return url.rstrip("/")


def resolve_spool_db(
    table: SpoolDBTable | None, sql: SQLDBTable | None, data_dir: str, path: str, report: Report
) -> Database:
    """The spool of a Provider or gateway; *sql* is None where that back end does not exist."""
    table = table or SpoolDBTable()
    backend = table.backend.lower() or "bolt"
    provider = path.startswith("Provider")
    if backend == "bolt":
        name = table.bolt.spool_db if table.bolt else "spool.db"
        if not provider and table.bolt is not None and not name.startswith("/"):
            report.error(f"Provider: SpoolDB '{name}' is not an absolute path", f"{path}.Bolt.SpoolDB")
        return Database(backend="bolt", path=str(PurePosixPath(data_dir) / name))
    if backend == "sql" and provider:
        return Database(backend="sql", dsn=_dsn(sql, "SpoolDB", report))
    report.error(f"Provider: Invalid SpoolDB Backend: '{table.backend}'", f"{path}.Backend")
    return Database(backend="bolt")


def _dsn(sql: SQLDBTable | None, who: str, report: Report) -> str:
    if sql is None:
        report.error(f"Provider: {who} configured for an SQL backend without a SQLDB block", f"Provider.{who}.Backend")
        return ""
    return sql.data_source_name


def check_sql(sql: SQLDBTable | None, used: bool, report: Report) -> None:
    """The [Provider.SQLDB] table by itself."""
    if sql is None:
        return
    if sql.backend != "pgx":
        report.error(f"SQLDB: Backend '{sql.backend}' is invalid; write pgx", "Provider.SQLDB.Backend")
    if not sql.data_source_name:
        report.error("SQLDB: DataSourceName '' is invalid", "Provider.SQLDB.DataSourceName")
    if not used:
        report.warn('[Provider.SQLDB] is not used: neither UserDB nor SpoolDB has Backend = "sql"')
