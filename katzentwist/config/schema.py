"""Tables of configuration keys, declared once: read, checked, and documented from the same place.

A table is a frozen attrs class whose fields are made by :func:`key`. :func:`read` fills one from parsed TOML: key names
match without regard to case, an exact match first; every mistake is noted with its key path in a :class:`Report`, and
reading goes on, so that one run shows all of them. Unknown keys are noted too. :func:`describe` lists the keys for the
reference in ``docs/``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import attrs

from katzentwist.errors import ConfigError, ConfigErrors

T = TypeVar("T")
Reader = Callable[[Any, str, "Report"], Any]

_SPEC = "katzentwist.key"


@attrs.define
class Report:
    """What reading a file found: errors stop the start, unknown keys and warnings are logged."""

    errors: list[ConfigError] = attrs.field(factory=list)
    unknown: list[str] = attrs.field(factory=list)
    warnings: list[str] = attrs.field(factory=list)
    _refused: set[str] = attrs.field(factory=set)

    def error(self, message: str, path: str = "", *others: str) -> None:
        """Note a mistake at *path*, once; not what only follows from a value there that could not be read.

        :param others: further keys whose values make it a mistake.
        """
        error = ConfigError(message, path)
        if not any(map(self.refused, (path, *others))) and str(error) not in map(str, self.errors):
            self.errors.append(error)

    def refuse(self, error: ConfigError, keys: Iterable[str]) -> None:
        """Note a value that can not be read, at the path of a key under each of its names."""
        self.errors.append(error)
        self._refused.update(key.lower() for key in keys)

    def refused(self, path: str) -> bool:
        """Whether the value at *path* could not be read, or that of a table which holds it."""
        path = path.lower()
        return any(path == r or path.startswith((f"{r}.", f"{r}[")) for r in self._refused)

    def warn(self, message: str) -> None:
        """Note something that works but should be known."""
        self.warnings.append(message)

    def check(self) -> None:
        """:raises ConfigErrors: if any error was noted."""
        if self.errors:
            raise ConfigErrors(self.errors)


@attrs.frozen(kw_only=True)
class KeySpec:
    """One documented key: its TOML spelling, other accepted spellings, type, default in words, and meaning."""

    name: str
    aliases: tuple[str, ...]
    reader: Reader
    kind: str
    doc: str
    default_text: str
    required: str
    table: type | None = None
    repeated: bool = False


def key(
    name: str,
    reader: Reader,
    doc: str,
    *,
    default: Any = None,
    required: str = "",
    aliases: tuple[str, ...] = (),
    default_text: str | None = None,
) -> Any:
    """An attrs field that is a configuration key.

    :param required: the error text when the key is missing; empty for an optional key. Only texts can be required
        without a *default*.
    :param default_text: how the default reads in the documentation, where *default* itself does not say it.
    """
    if default_text is None:
        default_text = "mandatory" if required else _default_in_words(default)
    if required and default is None:
        default = ""  # what the rest of the checks goes on with
    spec = KeySpec(
        name=name,
        aliases=aliases,
        reader=reader,
        kind=getattr(reader, "kind", "value"),
        doc=doc,
        default_text=default_text,
        required=required,
        table=getattr(reader, "table", None),
        repeated=getattr(reader, "repeated", False),
    )
    return attrs.field(default=default, metadata={_SPEC: spec})


def _default_in_words(default: Any) -> str:
    if default is None:
        return "none"
    if isinstance(default, bool):
        return "true" if default else "false"
    if default in ("", (), {}):
        return "empty"
    return ", ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def specs(cls: type) -> Iterator[tuple[str, KeySpec]]:
    """(attribute name, key) of every configuration key of a table class."""
    for field in attrs.fields(cls):
        spec = field.metadata.get(_SPEC)
        if spec is not None:
            yield field.name, spec


def read(cls: type[T], table: Mapping[str, Any], report: Report, path: str = "") -> T:
    """An instance of *cls* from a parsed TOML *table*; mistakes go into *report*, defaults stand in for them."""
    values: dict[str, Any] = {}
    used: set[str] = set()
    for attribute, spec in specs(cls):
        found = _find(table, (spec.name, *spec.aliases))
        where = _join(path, spec.name)
        places = [_join(path, name) for name in (spec.name, *spec.aliases)]
        if found is None:
            if spec.required:
                report.refuse(ConfigError(spec.required, where), places)
            continue
        # Two spellings of one key that differ in case only: the exact one counts, the other is not unknown.
        used.update(k for k in table if k.lower() in {n.lower() for n in (spec.name, *spec.aliases)})
        try:
            values[attribute] = spec.reader(table[found], _join(path, found), report)
        except ConfigError as e:
            report.refuse(e if e.path else ConfigError(str(e), where), places)
    report.unknown.extend(_join(path, k) for k in table if k not in used)
    return cls(**values)


def _find(table: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    for name in names:
        if name in table:
            return name
        for present in table:
            if present.lower() == name.lower():
                return present
    return None


def lookup(table: Mapping[str, Any], name: str) -> Any:
    """The value of *name* in a raw table, by the same rule of case; None if absent."""
    found = _find(table, (name,))
    return None if found is None else table[found]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


# Readers ---------------------------------------------------------------------------------------------------------


def _named(kind: str) -> Callable[[Reader], Reader]:
    def mark(reader: Reader) -> Reader:
        reader.kind = kind  # type: ignore[attr-defined]
        return reader

    return mark


SHOWN = 100
"""Characters of a wrong value that an error shows."""


def _wrong(value: Any, path: str, wanted: str) -> ConfigError:
    try:
        shown = repr(value)
    except ValueError:  # Python writes no number of more than 4300 digits
        shown = "a number of thousands of digits"
    return ConfigError(f"must be {wanted}, not {shown if len(shown) <= SHOWN else shown[:SHOWN] + '...'}", path)


@_named("text")
def text(value: Any, path: str, report: Report) -> str:
    """A string; without NUL, which no path, address or argument of a program can hold."""
    if not isinstance(value, str):
        raise _wrong(value, path, "a text")
    if "\0" in value:
        raise _wrong(value, path, "a text without NUL")
    return value


@_named("integer")
def integer(value: Any, path: str, report: Report) -> int:
    """An integer that fits 64 bits."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise _wrong(value, path, "an integer")
    if not -(2**63) <= value < 2**63:
        raise _wrong(value, path, "an integer of at most 64 bits")
    return value


def up_to(most: int) -> Reader:
    """An integer of at most *most*."""

    @_named(f"integer up to {most}")
    def reader(value: Any, path: str, report: Report) -> int:
        found: int = integer(value, path, report)
        if found > most:
            raise _wrong(value, path, f"at most {most}")
        return found

    return reader


milliseconds = up_to(86_400_000)
"""Up to a day."""
seconds = up_to(86_400)
"""Up to a day."""
workers = up_to(1024)
"""More than any machine can use."""


@_named("boolean")
def boolean(value: Any, path: str, report: Report) -> bool:
    """``true`` or ``false``."""
    if not isinstance(value, bool):
        raise _wrong(value, path, "true or false")
    return value


@_named("number")
def number(value: Any, path: str, report: Report) -> float:
    """A float, or an integer in place of one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _wrong(value, path, "a number")
    try:
        return float(value)
    except OverflowError as e:
        raise _wrong(value, path, "a number that a float can hold") from e


@_named("list of texts")
def texts(value: Any, path: str, report: Report) -> tuple[str, ...]:
    """A list of strings."""
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise _wrong(value, path, "a list of texts")
    return tuple(text(v, path, report) for v in value)


@_named("table")
def free_table(value: Any, path: str, report: Report) -> dict[str, Any]:
    """A table whose keys are not ours to know."""
    if not isinstance(value, dict):
        raise _wrong(value, path, "a table")
    return dict(value)


@_named("table of lists of texts")
def address_table(value: Any, path: str, report: Report) -> dict[str, tuple[str, ...]]:
    """A table: transport name to list of addresses."""
    return {k: texts(v, f"{path}.{k}", report) for k, v in free_table(value, path, report).items()}


def one_of(*words: str) -> Reader:
    """A text that is one of *words*, in any case; the result has the case given here."""
    by_lower = {w.lower(): w for w in words}

    @_named("one of " + ", ".join(words))
    def reader(value: Any, path: str, report: Report) -> str:
        got = by_lower.get(text(value, path, report).lower())
        if got is None:
            raise ConfigError(f"{value!r} is invalid; one of {', '.join(words)}", path)
        return got

    return reader


def table_of(cls: type) -> Reader:
    """A table that is itself declared."""

    @_named("table")
    def reader(value: Any, path: str, report: Report) -> Any:
        return read(cls, free_table(value, path, report), report, path)

    reader.table = cls  # type: ignore[attr-defined]
    return reader


def tables_of(cls: type) -> Reader:
    """An array of declared tables; paths count from 0: ``Mixes[0].Identifier``."""

    @_named("array of tables")
    def reader(value: Any, path: str, report: Report) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise _wrong(value, path, "an array of tables")
        return tuple(
            read(cls, free_table(v, f"{path}[{i}]", report), report, f"{path}[{i}]") for i, v in enumerate(value)
        )

    reader.table = cls  # type: ignore[attr-defined]
    reader.repeated = True  # type: ignore[attr-defined]
    return reader


# Documentation ---------------------------------------------------------------------------------------------------


@attrs.frozen(kw_only=True)
class Section:
    """One table of the reference: its TOML header, its words, and its keys."""

    header: str
    doc: str
    keys: tuple[KeySpec, ...]


def describe(cls: type, path: str = "", repeated: bool = False) -> Iterator[Section]:
    """The sections of the reference for *cls* and all tables below it, in order of declaration."""
    every = [spec for _, spec in specs(cls)]
    header = f"[[{path}]]" if repeated else f"[{path}]" if path else ""
    yield Section(header=header, doc=(cls.__doc__ or "").strip(), keys=tuple(s for s in every if s.table is None))
    for spec in every:
        if spec.table is not None:
            yield from describe(spec.table, _join(path, spec.name), spec.repeated)
