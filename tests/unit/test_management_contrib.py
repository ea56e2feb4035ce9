"""What is shipped beside the program: docs/metrics.md, systemd units, the shape of the dashboard."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.mix import service
from katzentwist.plugins import supervisor
from katzentwist.status.reference import GAUGES, LABELS, render

ROOT = Path(__file__).parent.parent.parent


class MetricsPageTests(SynchronousTestCase):
    """docs/metrics.md is what the code says."""

    def test_current(self) -> None:
        """Made from the declarations."""
        page = (ROOT / "docs" / "metrics.md").read_text("utf-8")
        self.assertEqual(page, render(), "run: python -m katzentwist.status.reference > docs/metrics.md")

    def test_complete(self) -> None:
        """Every counter and gauge that the code names is on the page."""
        named = set()
        for path in (ROOT / "katzentwist").rglob("*.py"):
            named |= set(re.findall(r'(?:metrics\.(?:count|gauge|observe)|gauge)\(\s*"(\w+)"', path.read_text("utf-8")))
        self.assertGreater(len(named), 20)
        page = render()
        self.assertEqual([name for name in sorted(named) if f"`katzenpost_{name}`" not in page], [])
        self.assertIn("plugin_processes", GAUGES)
        self.assertTrue(LABELS and service and supervisor)


class UnitFileTests(SynchronousTestCase):
    """contrib/systemd."""

    def test_verify(self) -> None:
        """systemd accepts every unit."""
        program = shutil.which("systemd-analyze")
        if program is None:
            raise SkipTest(
                "SKIPPED: there is no systemd-analyze here, so the units in contrib/systemd are not verified"
            )
        units = sorted((ROOT / "contrib" / "systemd").glob("*.service"))
        self.assertEqual(len(units), 3)
        done = subprocess.run([program, "verify", *map(str, units)], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))

    def test_options(self) -> None:
        """Each runs a program of ours in the foreground, and tells systemd when it is ready."""
        for unit in (ROOT / "contrib" / "systemd").glob("*.service"):
            text = unit.read_text()
            self.assertIn("Type=notify", text)
            self.assertIn(f"twistd --nodaemon --pidfile= {unit.stem} -f", text)


class DashboardTests(SynchronousTestCase):
    """contrib/grafana; that its series exist is tested on a running network."""

    def test_shape(self) -> None:
        """It is JSON, ids are unique, panels do not overlap."""
        board = json.loads((ROOT / "contrib" / "grafana" / "katzentwist.json").read_text())
        panels = board["panels"]
        self.assertEqual(len({p["id"] for p in panels}), len(panels))
        taken: set[tuple[int, int]] = set()
        for panel in panels:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            self.assertFalse(cells & taken, panel["title"])
            self.assertTrue(all(x < 24 for x, _ in cells))
            taken |= cells
