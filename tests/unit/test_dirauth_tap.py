"""The front of ``twistd katzendirauth``: options, exit statuses, texts (spec: pki 10.6, 12.1)."""

from __future__ import annotations

import os
import sys
from io import StringIO
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.dirauth import tap
from tests.unit.dirauth_network import nodes
from tests.unit.test_dirauth_service import config_text


class TapTests(SynchronousTestCase):
    """The plugin without twistd."""

    def setUp(self) -> None:
        """A folder with a data directory, as the working directory; the streams are caught."""
        self.folder = Path(self.mktemp()).absolute()
        (self.folder / "data").mkdir(parents=True, mode=0o700)
        before = Path.cwd()
        os.chdir(self.folder)
        self.addCleanup(os.chdir, before)
        self.addCleanup(os.umask, os.umask(0o077))
        self.out = StringIO()
        for stream in ("stdout", "stderr", "__stderr__"):
            self.patch(sys, stream, self.out)
        self.text = config_text(str(self.folder / "data"), nodes())

    def write(self, text: str, name: str = "authority.toml") -> None:
        """A configuration file."""
        (self.folder / name).write_text(text)

    def run_front(self, *arguments: str) -> int:
        """The exit status; the printed text is in self.out."""

        def front() -> None:
            options = tap.Options()
            options.parseOptions(list(arguments))
            tap.makeService(options)

        return int(self.assertRaises(SystemExit, front).code or 0)

    def test_generate(self) -> None:
        """-g makes the keys and exits 0; a second run prints the same."""
        self.write(f'[Server]\nAddresses = ["127.0.0.1:1"]\nDataDir = "{self.folder}/data"\n')
        self.assertEqual(self.run_front("-g"), 0)
        first = self.out.getvalue()
        self.assertIn("Server identity public key is: ", first)
        self.assertEqual(self.run_front("--generate-only"), 0)
        self.assertEqual(self.out.getvalue(), first * 2)
        names = sorted(path.name for path in (self.folder / "data").iterdir())
        self.assertEqual(names, ["identity.private.pem", "identity.public.pem", "link.private.pem", "link.public.pem"])

    def test_generate_bad_folder(self) -> None:
        """A data directory that others can read: status 1 and the remedy."""
        (self.folder / "data").chmod(0o755)
        self.write(self.text)
        self.assertEqual(self.run_front("-g"), 1)
        self.assertIn("chmod 700", self.out.getvalue())

    def test_validate(self) -> None:
        """--validate-only has no side effects and counts unknown keys as errors."""
        self.write(self.text)
        self.assertEqual(self.run_front("--validate-only"), 0)
        self.assertEqual(list((self.folder / "data").iterdir()), [])
        self.assertIn("configuration file 'authority.toml' is valid", self.out.getvalue())
        self.write(self.text + "[Colour]\n")
        self.assertEqual(self.run_front("--validate-only"), 1)
        self.assertIn("unrecognised configuration keys: Colour", self.out.getvalue())

    def test_default_files(self) -> None:
        """authority.toml first, else upstream's name."""
        self.write(self.text, "katzenpost-authority.toml")
        self.assertEqual(self.run_front("--validate-only"), 0)
        self.assertIn("'katzenpost-authority.toml' is valid", self.out.getvalue())

    def test_usage(self) -> None:
        """Wrong usage: 2; version and help: 0; a bad file: 1."""
        self.assertEqual(self.run_front("--nonsense"), 2)
        self.assertEqual(self.run_front("--version"), 0)
        self.assertEqual(self.run_front("-h"), 0)
        self.assertEqual(self.run_front("-f", "nothing.toml"), 1)
        self.assertIn("failed to load config file 'nothing.toml'", self.out.getvalue())
        self.write("[Server]\n")
        self.assertEqual(self.run_front(), 1)
        self.assertIn("Server.DataDir", self.out.getvalue())

    def test_environment(self) -> None:
        """A duration in the environment counts, with a warning; a bad one ends the start."""
        self.write(self.text.replace("DataDir", 'EpochDuration = "2m"\nDataDir'))
        self.patch(os, "environ", {"KATZENPOST_EPOCH_DURATION": "never"})
        self.assertEqual(self.run_front(), 1)
        self.assertIn("never", self.out.getvalue())
        options = tap.Options()
        options.parseOptions([])
        self.patch(os, "environ", {"KATZENPOST_EPOCH_DURATION": "3m"})
        service = tap.makeService(options)
        self.assertEqual(service._epochs.period, 180)
        self.assertTrue(any("that counts" in warning for warning in service._report.warnings))
