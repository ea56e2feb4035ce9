"""Packages that are not installed: a mistake of the file that needs them, which names the extra (design D3)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli import check_config
from katzentwist.config import toml
from katzentwist.mix import tap
from katzentwist.node.extras import load_client
from katzentwist.testnet.plan import Shape, generate

PACKAGES = ("aioquic", "txpostgres", "psycopg2", "treq")


class ExtrasTests(SynchronousTestCase):
    """The start, --validate-only and check-config read the file by the same function."""

    def setUp(self) -> None:
        """A Provider's file, and a way to hide packages."""
        network = generate(Path(self.mktemp()), Shape(epoch="30s"))
        self.file = next(n for n in network.nodes if n.role == "provider").config
        self.hidden: tuple[str, ...] = PACKAGES
        real = importlib.util.find_spec
        self.patch(importlib.util, "find_spec", lambda name, *a: None if name in self.hidden else real(name, *a))

    def change(self, path: str, value: Any) -> None:
        """Set a key of the file."""
        tables = toml.parse(self.file.read_text())
        *folders, key = path.split(".")
        table: Any = tables
        for folder in folders:
            table = table.setdefault(folder, {})
        table[key] = value
        self.file.write_text(toml.dump(tables))

    def mistakes(self) -> list[str]:
        """By katzenmix and by check-config: the same."""
        config, report = tap.load(self.file.read_text())
        self.assertEqual(config is None, bool(report.errors))
        self.assertEqual(check_config.check(self.file), ("node", [str(e) for e in report.errors]))
        return [str(e) for e in report.errors]

    def one(self, *needles: str) -> None:
        """One mistake with these words; none with the packages at hand."""
        (mistake,) = self.mistakes()
        for needle in needles:
            self.assertIn(needle, mistake)
        self.hidden = ()
        if all(importlib.util.find_spec(name) for name in PACKAGES):
            self.assertEqual(self.mistakes(), [])

    def test_no_name(self) -> None:
        """A Provider without a name is one mistake: that of its service half follows from it."""
        self.change("Server.Identifier", "")
        self.assertEqual(self.mistakes(), ["Server.Identifier: config: Server: Identifier is not set"])

    def test_unreadable(self) -> None:
        """check-config says why in words, without the number of the error."""
        folder = self.file.parent
        self.assertEqual(check_config.check(folder), ("unknown", ["can not be read: Is a directory"]))
        self.file.write_bytes(b"\xff")
        _, (said,) = check_config.check(self.file)
        self.assertIn("not UTF-8", said)

    def test_nothing_needed(self) -> None:
        """A file that uses none of them is valid without them."""
        self.assertEqual(self.mistakes(), [])

    def test_quic(self) -> None:
        """An address to listen on."""
        self.change("Provider.ServiceAddresses", ["tcp://127.0.0.1:7001"])
        self.change("Server.Addresses", ["quic://127.0.0.1:7000"])
        self.one("Server.Addresses", "quic://127.0.0.1:7000", "katzentwist[quic]")

    def test_quic_elsewhere(self) -> None:
        """An address that is only advertised needs nothing."""
        self.change("Provider.ServiceAddresses", ["tcp://127.0.0.1:7001"])
        self.change("Server.Addresses", ["quic://127.0.0.1:7000"])
        self.change("Server.BindAddresses", ["tcp://127.0.0.1:7000"])
        self.assertEqual(self.mistakes(), [])

    def test_quic_gateway(self) -> None:
        """A gateway that a client reaches by nothing else."""
        file = self.file.parent.parent / "client" / "client.toml"
        tables = toml.parse(file.read_text())
        [gateway] = tables["PinnedGateways"]["Gateways"]
        gateway["Addresses"] = ["quic://127.0.0.1:7000"]
        text = toml.dump(tables)
        _, report = load_client(text)
        self.assertIn("PinnedGateways.Gateways[0].Addresses: quic://127.0.0.1:7000", str(report.errors[0]))
        self.assertIn("katzentwist[quic]", str(report.errors[0]))
        gateway["Addresses"].append("tcp://127.0.0.1:7000")
        self.assertEqual(load_client(toml.dump(tables))[1].errors, [])
        self.hidden = ()
        if importlib.util.find_spec("aioquic"):
            self.assertEqual(load_client(text)[1].errors, [])

    def test_sql(self) -> None:
        """PostgreSQL for the spool."""
        self.change("Provider.SQLDB", {"Backend": "pgx", "DataSourceName": "host=localhost"})
        self.change("Provider.SpoolDB.Backend", "sql")
        self.one("Provider.SpoolDB.Backend", "'sql'", "katzentwist[postgres]")

    def test_extern(self) -> None:
        """Users of an HTTP service."""
        self.change("Provider.UserDB", {"Backend": "extern", "Extern": {"ProviderURL": "http://127.0.0.1:8080"}})
        self.one("Provider.UserDB.Backend", "'extern'", "katzentwist[web]")

    def test_validate_only(self) -> None:
        """The program ends with status 1 and the message."""
        self.change("Provider.UserDB", {"Backend": "extern", "Extern": {"ProviderURL": "http://127.0.0.1:8080"}})
        options = tap.Options()
        options.parseOptions(["-f", str(self.file), "--validate-only"])
        told = io.StringIO()
        self.patch(tap.die.__globals__["sys"], "__stderr__", told)
        with contextlib.suppress(SystemExit):
            tap.makeService(options)
            self.fail("went on")
        self.assertIn("katzentwist[web]", told.getvalue())
