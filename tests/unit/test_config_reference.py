"""docs/configuration.md is what the code says."""

from __future__ import annotations

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.reference import render


class ReferenceTests(SynchronousTestCase):
    """The generated page."""

    def test_current(self) -> None:
        """The page in docs/ is the one that the declarations give."""
        page = Path(__file__).parent.parent.parent / "docs" / "configuration.md"
        self.assertEqual(
            page.read_text("utf-8"), render(), "run: python -m katzentwist.config.reference > docs/configuration.md"
        )

    def test_each_table_once(self) -> None:
        """Tables of one kind share their rows."""
        for part in re.split("(?m)^## ", render())[3:]:
            bodies = [body.partition("\n")[2] for body in re.split("(?m)^### ", part)[1:]]
            self.assertEqual(len(set(bodies)), len(bodies), part[:50])
        self.assertIn("### `[Server]`, `[Authority]`\n", render())

    def test_every_key_says_what_it_means(self) -> None:
        """No row without words."""
        rows = [line.split("|") for line in render().splitlines() if line.startswith("| `")]
        self.assertGreater(len(rows), 100)
        self.assertTrue(all(len(row[4].strip()) > 3 for row in rows))
