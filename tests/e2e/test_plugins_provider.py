"""Services of a running Provider, asked through the mix network (provider 10.4; tests are named after the rows)."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from katzentwist.config import toml
from katzentwist.pki.document import Document
from katzentwist.testnet.plan import Shape
from tests.e2e.processes import ROOT, LiveNetwork, cli, metrics, processes_with, twistd, wait_for
from tests.e2e.sharing import SharedNetworkCase
from tests.e2e.test_management import asking

BAD = str(Path(__file__).parent / "badplugin.py")
EXAMPLES = ROOT / "examples"
SITE_MODULE = """
from zope.interface import implementer
from katzentwist.interfaces import IKaetzchen

@implementer(IKaetzchen)
class Teller:
    def __init__(self, config):
        self.config = config

    def handle(self, payload, has_surb):
        return repr(sorted(self.config.items())).encode()

    def parameters(self):
        return {}
"""


class ServiceTests(SharedNetworkCase):
    """One Provider with everything."""

    @classmethod
    def make(cls) -> LiveNetwork:
        """Built-in services, an installed one, and plugins of several kinds."""
        net = LiveNetwork(Shape(epoch="12s", wire_kem="x25519", mu=0.02, lambda_p=0.02))
        cls.folder = Path(tempfile.mkdtemp(prefix="kt-", dir=net.folder))
        site = cls.folder / "site"
        (site / "teller-1.dist-info").mkdir(parents=True)
        (site / "teller.py").write_text(SITE_MODULE)
        (site / "teller-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: teller\nVersion: 1\n")
        (site / "teller-1.dist-info" / "entry_points.txt").write_text(
            "[katzentwist.kaetzchen]\nteller = teller:Teller\n"
        )
        cls.saved = {name: os.environ.get(name) for name in ("PYTHONPATH", "TMPDIR")}
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
        os.environ["TMPDIR"] = str(cls.folder)

        def provider(tables: dict[str, Any]) -> None:
            table = tables["Provider"]
            table["AltAddresses"] = {"onion": ["exampleexampleexample.onion:29483"]}
            table["Kaetzchen"] += [
                {"Capability": "testdest", "Endpoint": "+testdest", "Disable": True},
                {"Capability": "teller", "Endpoint": "+teller", "Config": {"colour": "blue", "number": 3}},
            ]

            def plugin(name: str, command: str, config: dict[str, str] | None, **more: Any) -> dict[str, Any]:
                entry = {"Capability": name, "Endpoint": f"+{name}", "Command": command, **more}
                return entry if config is None else {**entry, "Config": config}

            table["CBORPluginKaetzchen"] = [
                plugin("counter", str(EXAMPLES / "counter_service.py"), {"greeting": "hi"}, MaxConcurrency=3),
                plugin("plain", str(EXAMPLES / "plain_service.py"), {}, PKIAdvertizedData={"plain": {"fee": 1}}),
                plugin("late", BAD, {"mode": "late"}),
                plugin("old", BAD, {"mode": "old", "note": str(cls.folder / "old"), "sleep": "0.1"}),
                plugin("long", BAD, {"mode": "long-old"}),
                plugin("off", BAD, {"mode": "silent"}, Disable=True),
                plugin("args", BAD, None),
            ]
            # The document's spelling: goes to the one plugin without a Config.
            table["PluginKaetzchen"] = {"Config": {"mode": "args", "note": str(cls.folder / "args"), "log_dir": "/x y"}}

        net.edit("provider1", provider)
        return net

    folder: Path
    saved: dict[str, str | None]

    @classmethod
    def end(cls) -> None:
        """The environment as it was."""
        super().end()
        for name, value in cls.saved.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value

    def setUp(self) -> None:
        """Short names."""
        super().setUp()
        self.provider = self.net.node("provider1")
        self.client = self.net.network.client / "client.toml"

    def ask(self, endpoint: str, text: str) -> bytes:
        """The reply without its padding."""
        done = asking(self.client, endpoint, text)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return bytes.fromhex(done.stdout).rstrip(b"\0")

    def processes(self, program: str) -> list[int]:
        """The processes of a program of examples/ that this network's node runs."""
        return processes_with(str(EXAMPLES / program), str(self.folder))

    def document(self) -> Document:
        """The newest one that the Provider holds."""
        files = sorted((self.provider.folder / "consensus").glob("*.cbor"), key=lambda f: int(f.stem))
        return Document.parse(files[-1].read_bytes(), int(files[-1].stem))

    # Rows ----------------------------------------------------------------------------------------------------------

    def test_services_in_the_descriptor(self) -> None:
        """All that run, with their endpoints and advertised data; AltAddresses at the gateway half."""
        running = ("args", "counter", "echo", "keyserver", "late", "long", "old", "plain", "teller")

        def with_all() -> Document | None:
            document = self.document()
            (service,) = document.service_nodes
            found = {k: v["endpoint"] for k, v in (service.kaetzchen or {}).items()}
            return document if found == {n: f"+{n}" for n in running} else None

        # Where test_plugin_dies came before, the plugin may have been away when the descriptor was made.
        document = wait_for("a document with all services", with_all, 40)
        (service,), (gateway,) = document.service_nodes, document.gateway_nodes
        self.assertEqual(service.kaetzchen_advertized_data, {"plain": {"fee": 1}})
        self.assertEqual(list(gateway.addresses["onion"]), ["onion://exampleexampleexample.onion:29483"])

    def test_echo_with_and_without_surb(self) -> None:
        """With a SURB the payload comes back; without one nothing is sent."""
        self.assertEqual(self.ask("+echo", "hello"), b"hello")
        before = metrics(self.provider)["katzenpost_kaetzchen_requests_total"]
        self.assertEqual(asking(self.client, "+echo", "hello", "--no-surb").returncode, 0)
        after = metrics(self.provider)["katzenpost_kaetzchen_requests_total"]
        self.assertGreaterEqual(after - before, 1)

    def test_keyserver(self) -> None:
        """It answers for users who do not exist."""
        answer = json.loads(self.ask("+keyserver", '{"User":"nobody"}'))
        self.assertEqual(answer["StatusCode"], 2)

    def test_config_of_a_service_in_process(self) -> None:
        """An installed service answers with its Config."""
        self.assertEqual(self.ask("+teller", "?"), b"[('colour', 'blue'), ('number', 3)]")

    def test_max_concurrency(self) -> None:
        """So many processes."""
        self.assertEqual(len(self.processes("counter_service.py")), 3)
        self.assertTrue(self.ask("+counter", "x").startswith(b"hi "))
        self.assertEqual(metrics(self.provider)['katzenpost_plugin_processes{capability="counter"}'], 3)

    def test_late_socket(self) -> None:
        """The plugin of the late socket works."""
        self.assertEqual(self.ask("+late", "x"), b"x")

    def test_old_shape(self) -> None:
        """A plugin that knows only ID, Payload and HasSURB; its requests never overlap, and come with their padding."""
        done = asking(self.client, "+old", "text", "--burst", "5", "--quiet", "0.5")
        self.assertEqual(done.stdout.strip(), "5", done.stderr)
        lines = (self.folder / "old").read_text().splitlines()
        self.assertNotIn("OVERLAP", lines)
        self.assertTrue(all(line.split()[1] == "2000" for line in lines), lines)

    def test_two_plugins(self) -> None:
        """A request goes to the plugin of its endpoint, and to no other."""

        def noted() -> int:
            path = self.folder / "old"
            return len(path.read_text().splitlines()) if path.exists() else 0

        before = noted()
        self.assertEqual(self.ask("+late", "x"), b"x")
        self.assertEqual(noted(), before)
        self.assertEqual(self.ask("+old", "x"), b"x")
        self.assertEqual(noted(), before + 1)

    def test_response_too_long(self) -> None:
        """Dropped and counted; the service lives on."""
        self.assertNotEqual(asking(self.client, "+long", "L", "--patience", "2").returncode, 0)
        name = 'katzenpost_dropped_reason_total{reason="cbor_kaetzchen_response_too_long"}'
        self.assertEqual(metrics(self.provider)[name], 1)
        self.assertEqual(self.ask("+long", "short"), b"short")

    def test_plugin_kaetzchen_config(self) -> None:
        """The document's ``[Provider.PluginKaetzchen.Config]`` reaches the plugin, as arguments."""
        written = (self.folder / "args").read_text()
        self.assertIn("'-log_dir', '/x y'", written)

    def test_disable(self) -> None:
        """A disabled service is not run and can not be started, built-in or plugin."""
        for name in ("testdest", "off"):
            done = cli("manage", str(self.provider.folder), "START_KAETZCHEN", name)
            self.assertEqual(done.stdout, "554 Transaction failed\n")

    def test_plugin_dies(self) -> None:
        """Killed from outside: echo goes on, and the plugin comes back."""
        (pid,) = self.processes("plain_service.py")
        os.kill(pid, 9)
        self.assertEqual(self.ask("+echo", "still"), b"still")
        wait_for("a new process", lambda: set(self.processes("plain_service.py")) - {pid}, 10)
        wait_for(
            "its connection", lambda: metrics(self.provider)['katzenpost_plugin_processes{capability="plain"}'] == 1, 10
        )
        self.assertEqual(self.ask("+plain", "abc"), b"cba")

    def test_first_start_fails(self) -> None:
        """A plugin that can not be started ends the node's start: status 1 and its name."""
        folder = self.folder / "other"
        folder.mkdir(mode=0o700)
        tables = toml.parse(self.provider.config.read_text())
        tables["Server"].update(DataDir=str(folder), Addresses=["tcp://127.0.0.1:0"])
        tables["Server"].pop("MetricsAddress")
        tables["Server"].pop("PersistMixKeysOnShutdownDir")
        tables["Server"].pop("PersistMixKeysOnShutdown")
        port = int(self.provider.addresses[0].rsplit(":", 1)[1])
        tables["Server"]["Addresses"] = [f"tcp://127.0.0.2:{port}"]
        tables["Provider"].pop("PluginKaetzchen")
        tables["Provider"].pop("Kaetzchen")
        tables["Provider"]["CBORPluginKaetzchen"] = [
            {"Capability": "bad", "Endpoint": "+bad", "Command": BAD, "Config": {"mode": "refuse"}}
        ]
        file = folder / "katzenpost.toml"
        file.write_text(toml.dump(tables))
        done = twistd("katzenmix", "-f", str(file), cwd=folder)
        self.assertEqual(done.returncode, 1, done.stdout)
        self.assertIn("plugin 'bad'", done.stderr)
        self.assertIn("ended with status 1, and said: no log directory", done.stderr)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        self.assertFalse((folder / "management_sock").exists())

    def test_zz_nothing_stays(self) -> None:
        """After SIGTERM no plugin is left."""
        child = self.net.child("provider1")
        child.process.terminate()
        self.assertEqual(child.process.wait(15), 0)
        self.assertEqual(processes_with(str(self.folder)) + self.processes(""), [])
