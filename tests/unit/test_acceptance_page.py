"""docs/acceptance.md names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

TESTS = Path(__file__).parent.parent
PAGE = TESTS.parent / "docs" / "acceptance.md"
FOLDERS = ("unit", "network", "backends", "packaging")


class AcceptancePageTests(SynchronousTestCase):
    """The page of statements and their tests."""

    def test_names(self) -> None:
        """Every dotted name is a module, a class in it, or a method of the class."""
        missing, last = [], ""
        names = [name for line in PAGE.read_text().splitlines() if line.startswith("|") for name in self._names(line)]
        for name in names:
            full = f"{last}.{name.removeprefix('...')}" if name.startswith("...") else name
            last = full.rsplit(".", 1)[0]
            if not self._exists(full):
                missing.append(full)
        self.assertEqual(missing, [])
        self.assertGreater(len(names), 80)

    def _names(self, line: str) -> list[str]:
        cell = line.split("|")[2]
        return [n for n in re.findall(r"`([^`]+)`", cell) if "test_" in n]

    def _exists(self, name: str) -> bool:
        parts = name.split(".")
        folder = parts.pop(0) if parts[0] in FOLDERS else "e2e"
        path = TESTS / folder / f"{parts[0]}.py"
        if not path.exists():
            return False
        scope: list[ast.stmt] = ast.parse(path.read_text()).body
        for part in parts[1:]:
            found = next((n for n in scope if getattr(n, "name", "") == part), None)
            if found is None:
                return False
            scope = getattr(found, "body", [])
        return True
