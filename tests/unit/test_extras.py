"""Packages that are not installed: a mistake of the file that needs them, which names the extra (design D3)."""

from __future__ import annotations

import contextlib
import importlib.util
import io
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.cli import check_config
from katzentwist.cli.main import main
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
        found = check_config.check(self.file)
        self.assertEqual((found.kind, found.errors), ("node", [str(e) for e in report.errors]))
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
        found = check_config.check(folder)
        self.assertEqual((found.kind, found.errors), ("unknown", ["can not be read: Is a directory"]))
        self.file.write_bytes(b"\xff")
        (said,) = check_config.check(self.file).errors
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

    def validated(self) -> tuple[int, str]:
        """Exit status and standard error of --validate-only."""
        options = tap.Options()
        options.parseOptions(["-f", str(self.file), "--validate-only"])
        told = io.StringIO()
        self.patch(tap.die.__globals__["sys"], "__stderr__", told)
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            end = self.assertRaises(SystemExit, tap.makeService, options)
        return int(end.code), told.getvalue()

    def test_validate_only(self) -> None:
        """The program ends with status 1 and the message."""
        self.change("Provider.UserDB", {"Backend": "extern", "Extern": {"ProviderURL": "http://127.0.0.1:8080"}})
        status, told = self.validated()
        self.assertEqual(status, 1)
        self.assertIn("katzentwist[web]", told)

    def test_unknown_capability(self) -> None:
        """A service that nobody brings; a disabled one is not asked for."""
        service = {"Capability": "teleport", "Endpoint": "+t"}
        echo = {"Capability": "echo", "Endpoint": "+echo"}
        self.change("Provider.Kaetzchen", [echo, service])
        (mistake,) = self.mistakes()
        self.assertTrue(mistake.startswith("Provider.Kaetzchen[1].Capability: "), mistake)
        self.assertIn("Unsupported capability: 'teleport'; one of echo,", mistake)
        status, told = self.validated()
        self.assertEqual(status, 1)
        self.assertIn(f"config file '{self.file}':\n  {mistake}", told)
        self.change("Provider.Kaetzchen", [echo, {**service, "Disable": True}])
        self.assertEqual(self.mistakes(), [])

    def test_keyserver_needs_users(self) -> None:
        """The key server is a Provider's."""
        node = next(n for n in generate(Path(self.mktemp()), Shape(service_nodes=1)).nodes if n.role == "service node")
        self.file = node.config
        self.change("ServiceNode.Kaetzchen", [{"Capability": "keyserver", "Endpoint": "+k"}])
        (mistake,) = self.mistakes()
        self.assertIn("ServiceNode.Kaetzchen[0].Capability", mistake)

    def test_missing_program(self) -> None:
        """The program of a plugin that is not installed (yet) is a warning; its start is what fails."""
        plugin = {"Capability": "x", "Endpoint": "+x", "Command": "/nowhere/plugin"}
        self.change("Provider.CBORPluginKaetzchen", [plugin])
        self.assertEqual(self.mistakes(), [])
        words = "Provider.CBORPluginKaetzchen[0].Command: can not execute '/nowhere/plugin': no such program"
        status, told = self.validated()
        self.assertEqual(status, 0)
        self.assertIn(f"config file '{self.file}': warning: {words}", told)
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            self.assertEqual(main(["check-config", str(self.file)]), 0)
        self.assertIn(f"warning: {words}", out.getvalue())
        for harmless in ({"Disable": True}, {"Command": "/bin/cat"}):
            self.change("Provider.CBORPluginKaetzchen", [{**plugin, **harmless}])
            self.assertNotIn("warning", self.validated()[1])
