"""Every key of every file with values that nobody should write: a message with the key's path, never a traceback."""

from __future__ import annotations

import copy
import datetime
import math
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import authority, client, node, schema, thinclient, toml
from katzentwist.config.authoritytables import AuthorityFile
from katzentwist.config.client import ClientFile
from katzentwist.config.nodetables import NodeFile
from katzentwist.config.schema import Report
from katzentwist.errors import ConfigError
from katzentwist.testnet.plan import Shape, generate

Tables = dict[str, Any]
HOSTILE: tuple[Any, ...] = (
    10**400, -(10**400), 10**5000, 2**63, 2**63 - 1, -(2**63), 1.5, 1e308, math.nan, math.inf, -math.inf, True,
    "", "a\0b", "/a\0b", "x" * 100_000, "\u2028", "-----BEGIN", "tcp://[", "tcp://\u0130:1", "1e400h", "9" * 400 + "h",
    [], [[]], ["\0"], [{}], [1], {}, {"": ""}, {"a\0": "b"}, {"a": "b\0"}, {"x": {"y": [{}]}},
    datetime.datetime(1, 1, 1), datetime.time(1),
)  # fmt: skip


def places(cls: type, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key, tables included; of an array its first entry."""
    for _, spec in schema.specs(cls):
        here = (*path, spec.name)
        yield here
        if spec.table is not None:
            yield from places(spec.table, (*here, "0") if spec.repeated else here)


def put(tables: Tables, place: tuple[str, ...], value: Any) -> None:
    """Set one key; the tables on the way are made if they are missing."""
    current: Any = tables
    for step, following in zip(place, place[1:], strict=False):
        if step == "0":
            if not current:
                current.append({})
            current = current[0]
        elif not isinstance(current.get(step), (dict, list)):
            current = current.setdefault(step, [] if following == "0" else {})
        else:
            current = current[step]
    current[place[-1]] = value


def older_shape(tables: Tables) -> Tables:
    """A node's file as older ones were: no geometry, no schemes, one authority."""
    authority = tables["PKI"]["Voting"]["Authorities"][0]
    server = {k: v for k, v in tables["Server"].items() if k not in ("WireKEM", "PKISignatureScheme")}
    pki = {"Nonvoting": {"Address": authority["Addresses"][0], "PublicKey": authority["IdentityPublicKey"]}}
    return {**{k: v for k, v in tables.items() if k != "SphinxGeometry"}, "Server": server, "PKI": pki}


class OneCauseTests(SynchronousTestCase):
    """A key that can not be read, or is not there, is one mistake, whatever else hangs on its value."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        network = generate(folder, Shape(gateways=1, service_nodes=1))
        self.files = {n.name: toml.parse(n.config.read_text()) for n in network.nodes}
        self.files["client"] = toml.parse((network.client / "client.toml").read_text())
        plugin = {"Capability": "x", "Endpoint": "+x", "Command": "/bin/cat", "Config": {"a": "b"}}
        self.files["provider1"]["Provider"]["CBORPluginKaetzchen"] = [plugin]

    def check(self, cls: type, load: Callable[[str], tuple[Any, Report]], good: Tables) -> int:
        """Spoil one key after the other, in every table that the file has; the number of keys."""
        self.assertEqual(load(toml.dump(good))[1].errors, [])
        count = 0
        for place in places(cls):
            for value in (datetime.time(1), None):
                tables = copy.deepcopy(good)
                table: Any = tables
                try:
                    for step in place[:-1]:
                        table = table[0 if step == "0" else step]
                except KeyError:
                    continue  # in a table that is not there
                if value is None and place == ("PKI", "Nonvoting"):
                    continue  # without it the file has the other shape
                if value is None:
                    table.pop(place[-1], None)
                else:
                    table[place[-1]] = value
                errors = load(toml.dump(tables))[1].errors
                self.assertLessEqual(len(errors), 1, (place, value, errors))
                if errors and value is not None:
                    self.assertEqual(errors[0].path.replace("[0]", ".0"), ".".join(place))
                count += 1
        return count

    def test_nodes(self) -> None:
        """Both shapes."""
        for name in ("mix1", "provider1", "gateway1", "servicenode1"):
            self.assertGreater(self.check(NodeFile, node.load, self.files[name]), 50)
        for name in ("mix1", "provider1"):
            self.assertGreater(self.check(NodeFile, node.load, older_shape(self.files[name])), 50)

    def test_authority(self) -> None:
        """The authority, whose white list is in files."""

        def load(text: str) -> tuple[Any, Report]:
            return authority.load(text, read_file=lambda name: Path(name).read_text())

        self.assertGreater(self.check(AuthorityFile, load, self.files["auth1"]), 50)

    def test_client(self) -> None:
        """The client daemon."""
        self.assertGreater(self.check(ClientFile, client.load, self.files["client"]), 50)

    def test_others_are_told(self) -> None:
        """Mistakes that have nothing to do with it are told at once."""
        tables = self.files["mix1"]
        tables["Server"]["DataDir"] = 5
        tables["Management"] = {"Enable": True, "Path": "relative"}
        tables["Server"]["WireKEM"] = "rot13"
        paths = {error.path for error in node.load(toml.dump(tables))[1].errors}
        self.assertEqual(paths, {"Server.DataDir", "Management.Path", "Server.WireKEM"})


class HostileTests(SynchronousTestCase):
    """All loaders."""

    def setUp(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            shape = Shape(gateways=1, service_nodes=1)
            network = generate(Path(folder) / "net", shape)
            self.files = {n.name: toml.parse(n.config.read_text()) for n in network.nodes}
            self.files["client"] = toml.parse((network.client / "client.toml").read_text())
            self.files["thin"] = toml.parse((network.client / "thinclient.toml").read_text())

    def check(self, name: str, cls: type, load: Callable[[str], tuple[Any, Report]]) -> None:
        """Every place with every value."""
        good, count = self.files[name], 0
        for place in places(cls):
            for value in HOSTILE:
                tables = copy.deepcopy(good)
                put(tables, place, value)
                self.patch(toml, "parse", lambda text, tables=tables: tables)
                config, report = load("")
                self.assertEqual(config is None, bool(report.errors))
                for error in report.errors:
                    self.assertLessEqual(len(str(error)), ConfigError.LONGEST + 3)
                if isinstance(value, int) and abs(value) >= 2**63 and config is None:
                    self.assertTrue(all(e.path for e in report.errors), (place, report.errors))
                if isinstance(value, str) and "\0" in value and place[-1] != "PluginKaetzchen":
                    self.assertTrue(any(".".join(place[:1]) in e.path for e in report.errors), (place, report))
                count += 1
        self.assertGreater(count, 100)

    def test_nodes(self) -> None:
        """In each of the shapes."""
        for name in ("mix1", "provider1", "gateway1", "servicenode1"):
            self.check(name, NodeFile, node.load)

    def test_authority(self) -> None:
        """The authority."""
        self.check("auth1", AuthorityFile, authority.load)

    def test_client(self) -> None:
        """The client daemon."""
        self.check("client", ClientFile, client.load)

    def test_thin_client(self) -> None:
        """Applications; their file has no declared tables."""
        for value in HOSTILE:
            for place in (("Dial",), ("Dial", "Tcp"), ("Dial", "Tcp", "Address"), ("Dial", "Unix", "Address")):
                tables = copy.deepcopy(self.files["thin"])
                put(tables, place, value)
                self.patch(toml, "parse", lambda text, tables=tables: tables)
                config, report = thinclient.load("")
                self.assertEqual(config is None, bool(report.errors))

    def test_limits(self) -> None:
        """What would hurt is refused, with the place and what to write."""
        for key, value, words in (
            ("ConnectTimeout", 86_400_001, "Debug.ConnectTimeout: must be at most 86400000, not 86400001"),
            ("NumProviderWorkers", 1025, "Debug.NumProviderWorkers: must be at most 1024, not 1025"),
            ("UnwrapDelay", 10**400, "Debug.UnwrapDelay: must be an integer of at most 64 bits, not 1000"),
        ):
            tables = {**self.files["provider1"], "Debug": {key: value}}
            self.patch(toml, "parse", lambda text, tables=tables: tables)
            _, report = node.load("")
            self.assertEqual(len(report.errors), 1)
            self.assertTrue(str(report.errors[0]).startswith(words), report.errors)

    def test_digits(self) -> None:
        """A number that Python does not read is a mistake in the file."""
        with self.assertRaises(ConfigError):
            toml.parse("a = " + "1" * 5000)
        with self.assertRaises(ConfigError):
            toml.parse("a = " + "[" * 100_000)
