"""The built wheel, in an environment of its own: the plugins are found and the native core is in it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 400


class WheelTests(SynchronousTestCase):
    """`pip install` of the wheel, without the source tree."""

    if shutil.which("cargo") is None:
        skip = "no Rust toolchain: the wheel would have no native core"

    timeout = TIMEOUT

    def test_wheel(self) -> None:
        """The wheel holds the native core; elsewhere `twistd` knows our programs and uses it."""
        folder = Path(self.mktemp()).resolve()
        folder.mkdir(parents=True)
        self._call([sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(folder), str(ROOT)])
        wheel = next(folder.glob("katzentwist-*.whl"))
        with zipfile.ZipFile(wheel) as archive:
            names = archive.namelist()
        self.assertIn("katzentwist/_native.abi3.so", names)
        self.assertIn("twisted/plugins/katzentwist_plugins.py", names)
        self.assertIn("katzentwist/py.typed", names)
        self.assertFalse([n for n in names if n.startswith("tests/")])

        python = self._environment(folder / "venv")
        self._call(
            [python, "-m", "pip", "install", "--quiet", "--ignore-installed", "--no-deps", "--no-index", str(wheel)]
        )
        elsewhere = folder / "elsewhere"
        elsewhere.mkdir()
        listed = self._call([str(Path(python).parent / "twistd"), "--help"], cwd=elsewhere)
        for program in ("katzenmix", "katzendirauth", "katzenclient"):
            self.assertIn(program, listed)
        version = self._call([python, "-m", "katzentwist", "version"], cwd=elsewhere)
        self.assertIn("native (", version)
        where = self._call([python, "-c", "import katzentwist._native as n; print(n.__file__)"], cwd=elsewhere)
        self.assertIn(str(folder / "venv"), where)

    def _environment(self, path: Path) -> str:
        """A virtual environment that sees our dependencies, and whose own packages come first."""
        self._call([sys.executable, "-m", "venv", str(path)])
        site = next(path.glob("lib/python*/site-packages"))
        # Only the folder, not its .pth files: an editable install of the tree must stay out of sight.
        (site / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
        python = str(path / "bin" / "python")
        script = path / "bin" / "twistd"
        script.write_text(f"#!{python}\nfrom twisted.scripts.twistd import run\nrun()\n")
        script.chmod(0o755)
        return python

    def _call(self, command: list[str], cwd: Path | None = None) -> str:
        environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        self.assertEqual(done.returncode, 0, f"{command}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return done.stdout
