"""The reference of every configuration key, made from the declarations (``docs/configuration.md``)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from katzentwist.config import examples, schema
from katzentwist.config.authoritytables import AuthorityFile
from katzentwist.config.client import ClientFile
from katzentwist.config.nodetables import NodeFile
from katzentwist.config.schema import KeySpec, Section
from katzentwist.sphinx import Geometry

INTRODUCTION = """\
# Configuration

Files are TOML. Key names match without regard to case. A mistake ends the start with one message per mistake; unknown
keys are logged, and are mistakes under `--validate-only` and `katzentwist check-config`.

This page is made from the code: `python -m katzentwist.config.reference > docs/configuration.md`.
"""
FILES = (
    ("Nodes: `katzenpost.toml`", NodeFile),
    ("Authority: `authority.toml`", AuthorityFile),
    ("Client: `client.toml`", ClientFile),
)


def render() -> str:
    """The whole page."""
    parts = [INTRODUCTION, examples.render()]
    for title, cls in FILES:
        parts.append(f"## {title}\n")
        parts.extend(_sections(schema.describe(cls)))
    parts.append(_geometry())
    return "\n".join(parts)


def _sections(found: Iterable[Section]) -> Iterator[str]:
    """Each table once, under all the names that it has in a file."""
    headers: dict[tuple[str, tuple[KeySpec, ...]], list[str]] = {}
    for section in found:
        if section.keys:
            headers.setdefault((section.doc, section.keys), []).append(section.header)
    for (doc, keys), names in headers.items():
        title = ", ".join(f"`{name}`" for name in names if name)
        heading = f"### {title}\n\n" if title else ""
        yield f"{heading}{doc}\n\n" + "\n".join(_rows(keys)) + "\n"


def _rows(keys: tuple[KeySpec, ...]) -> Iterator[str]:
    yield "| Key | Type | Default | Meaning |"
    yield "|---|---|---|---|"
    for spec in keys:
        names = " or ".join(f"`{name}`" for name in (spec.name, *spec.aliases))
        yield f"| {names} | {spec.kind} | {spec.default_text} | {spec.doc} |"


def _geometry() -> str:
    standard = Geometry.from_user_payload(2000, 5, nike="x25519")
    return f"## The standard geometry\n\nThe same table in every file of a network:\n\n```toml\n{standard.toml()}```\n"


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201
