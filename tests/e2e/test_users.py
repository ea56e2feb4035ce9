"""Rows of provider 10.2 and 10.3 on a running network in the older shape; each test is named after its row.

mix1 reaches the authority with a key in hex and logs nothing, mix2 has both management switches, mix3 a path of its own
with a stale file there, the Provider has a key in base64, an identity from its file, a log file, short time-outs.
"""

from __future__ import annotations

import base64
import re
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config import toml
from katzentwist.crypto import kem, keys, sign
from katzentwist.node.keyfiles import write_file
from katzentwist.pki.document import Document
from katzentwist.randomness import SystemRandom
from katzentwist.testnet.plan import Shape
from tests.e2e.processes import LiveNetwork, environment, metrics, twistd, wait_for
from tests.e2e.sharing import SharedNetworkCase

OK = "250 Requested action ok, completed"


def nonvoting(tables: dict[str, Any], form: str) -> None:
    """Replace [PKI.Voting] by the older [PKI.Nonvoting]."""
    (authority,) = tables["PKI"].pop("Voting")["Authorities"]
    public = keys.decode_public(sign.by_name("Ed25519"), authority["IdentityPublicKey"])
    text = public.hex() if form == "hex" else base64.b64encode(public).decode()
    tables["PKI"]["Nonvoting"] = {
        "Address": authority["Addresses"][0].removeprefix("tcp://"),
        "PublicKey": text,
    }


class OlderShapeTests(SharedNetworkCase):
    """One network for all rows that need one."""

    timeout = 200
    seed: ClassVar[bytes]
    stale: ClassVar[Path]

    @classmethod
    def make(cls) -> LiveNetwork:
        """The files, rewritten in the older shape."""
        net = LiveNetwork(Shape(epoch="10s", wire_kem="x25519", mu=0.05, lambda_p=0.001))
        cls.stale = net.folder / "socket3"
        cls.stale.write_text("left behind")

        def mix1(tables: dict[str, Any]) -> None:
            nonvoting(tables, "hex")
            tables["Logging"] = {"Disable": True, "File": "never.log", "Level": "DEBUG"}

        def mix2(tables: dict[str, Any]) -> None:
            nonvoting(tables, "base64")
            tables["Management"] = {"Enable": True, "Disable": True}
            tables["Logging"] = {"File": str(net.folder / "absolute.log"), "Level": "warning"}

        def mix3(tables: dict[str, Any]) -> None:
            tables["Management"] = {"Disable": False, "Path": str(cls.stale)}

        def provider(tables: dict[str, Any]) -> None:
            nonvoting(tables, "base64")
            tables["Logging"] = {"File": "node.log", "Level": "DEBUG"}
            tables["Provider"]["EnableEphemeralClients"] = tables["Provider"]["TrustOnFirstUse"] = False
            tables["Debug"] = {
                "HandshakeTimeout": 1500, "ReauthInterval": 1000, "DisableRateLimit": True,
                "NumSphinxWorkers": 1, "NumProviderWorkers": 4, "NumKaetzchenWorkers": 4,
            }  # fmt: skip

        for name, change in (("mix1", mix1), ("mix2", mix2), ("mix3", mix3), ("provider1", provider)):
            net.edit(name, change)
        return net

    @property
    def log(self) -> str:
        """What the Provider wrote."""
        return (self.net.node("provider1").folder / "node.log").read_text()

    def say(self, command: str) -> str:
        """The reply to a management command of the Provider."""
        with socket.socket(socket.AF_UNIX) as talk:
            talk.settimeout(20)
            talk.connect(str(self.net.node("provider1").folder / "management_sock"))
            with talk.makefile("rwb") as lines:
                lines.readline()
                lines.write(command.encode() + b"\r\n")
                lines.flush()
                return lines.readline().decode().strip()

    def user(self, name: str) -> Path:
        """A user of the Provider, with his key file."""
        scheme = kem.by_name("x25519")
        private, public = scheme.generate(SystemRandom())
        path = self.net.folder / f"{name}-{len(list(self.net.folder.iterdir()))}.pem"
        write_file(path, keys.encode_private(scheme, private))
        self.public = public
        self.assertEqual(self.say(f"ADD_USER {name} {public.hex()}"), OK)
        return path

    def hold(self, name: str, key: Path, seconds: float) -> subprocess.Popen[str]:
        """A session of a user."""
        client = str(self.net.network.client / "client.toml")
        command = [sys.executable, "-m", "tests.e2e.mailing", client, "--user", name, "--link-key", str(key), "hold"]
        process = subprocess.Popen([*command, str(seconds)], env=environment(), stdout=subprocess.PIPE, text=True)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        self.assertEqual(process.stdout.readline(), "up\n")
        return process

    def sessions(self) -> float:
        """Clients that are connected."""
        return metrics(self.net.node("provider1")).get("katzenpost_clients", 0)

    # 10.2 ----------------------------------------------------------------------------------------------------------

    def test_nonvoting_address_and_public_key(self) -> None:
        """Key in hex and base64: the nodes are in the document, the Provider with both halves."""
        files = sorted((self.net.node("mix3").folder / "consensus").glob("*.cbor"), key=lambda f: int(f.stem))
        document = Document.parse(files[-1].read_bytes(), int(files[-1].stem))
        mixes = {d.name for layer in document.topology for d in layer}
        self.assertEqual(mixes, {"mix1", "mix2", "mix3"})
        self.assertEqual([d.name for d in document.gateway_nodes], ["provider1"])
        self.assertEqual([d.name for d in document.service_nodes], ["provider1-service"])

    def test_logging_disable(self) -> None:
        """No output, no file; the node works."""
        node = self.net.node("mix1")
        self.assertFalse((node.folder / "never.log").exists())
        self.assertEqual((node.folder / "output.log").read_text(), "")
        self.assertGreater(metrics(node)["katzenpost_incoming_links"], 0)

    def test_logging_file_and_level(self) -> None:
        """Relative under DataDir, absolute as it is, mode 0600; filtered by level."""
        self.assertEqual((self.net.node("provider1").folder / "node.log").stat().st_mode & 0o777, 0o600)
        self.assertEqual((self.net.node("provider1").folder / "output.log").read_text(), "")
        self.assertRegex(self.log, r"(?m)^\d\d:\d\d:\d\d\.\d\d\d DEBU \S+: ")
        quiet = (self.net.folder / "absolute.log").read_text()
        self.assertIsNone(re.search(r"(?m)^\S+ (NOTI|INFO|DEBU) ", quiet))

    def test_debug_level_is_unsafe(self) -> None:
        """A warning line."""
        self.assertRegex(self.log, r"(?m)^\S+ WARN .*[Uu]nsafe debug logging")

    def test_management_switches(self) -> None:
        """Disable wins over Enable; Disable = false alone means on; a stale file at Path is replaced."""
        self.assertFalse((self.net.node("mix2").folder / "management_sock").exists())
        self.assertTrue(self.stale.is_socket())
        self.assertEqual(self.stale.stat().st_mode & 0o777, 0o700)
        self.assertTrue((self.net.node("provider1").folder / "management_sock").is_socket())

    # 10.3 ----------------------------------------------------------------------------------------------------------

    def test_numbers_of_workers(self) -> None:
        """Accepted, and said."""
        self.assertIn("1 Sphinx workers, 4 service workers", self.log)

    def test_handshake_timeout(self) -> None:
        """A silent peer is cut off after it, in milliseconds."""
        url = toml.parse(self.net.node("provider1").config.read_text())["Server"]["Addresses"][0]
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2])), 5) as silent:
            silent.settimeout(10)
            began = time.monotonic()
            while silent.recv(10_000):
                pass
            self.assertTrue(1.2 <= time.monotonic() - began <= 3.0)

    def test_reauth_interval(self) -> None:
        """REMOVE_USER and UPDATE_USER end a running session within it; another user's stays."""
        stays = self.hold("stays", self.user("stays"), 6)
        for command in ("REMOVE_USER goes", f"UPDATE_USER goes2 {'ab' * 32}"):
            name = command.split()[1]
            going = self.hold(name, self.user(name), 30)
            before = self.sessions()
            self.assertEqual(self.say(command), OK)
            wait_for("the session to end", lambda before=before: self.sessions() < before, 3)
            going.kill()
        self.assertEqual(stays.communicate(timeout=20)[0], "0\n")

    def test_disable_rate_limit(self) -> None:
        """No limit whatever the commands say, and they still answer 250."""
        key = self.user("fast")
        self.assertEqual((self.say("SEND_RATE 1"), self.say("SEND_BURST 1")), ("250 1", "250 1"))
        client = str(self.net.network.client / "client.toml")
        done = subprocess.run(
            [sys.executable, "-m", "tests.e2e.mailing", client, "--user", "fast", "--link-key", str(key), "away",
             "provider1-service", "50"],
            env=environment(), capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        self.assertEqual(done.stdout.split()[:2], ["50", "50"], done.stderr)

    def test_only_known_users(self) -> None:
        """With both switches off an unknown user is refused (provider 2.4)."""
        self.assertTrue(self.net.refused("provider1"))
        self.assertIn("peer refused: client_dropped_from_userdb", self.log)


class FileTests(SynchronousTestCase):
    """Rows that need no network: what a file may say, and what the start makes of it."""

    def setUp(self) -> None:
        self.net = LiveNetwork(Shape(mixes=1, layers=1, wire_kem="x25519"))
        self.addCleanup(self.net.__exit__)
        self.original = self.net.node("provider1").config.read_text()

    def tables(self) -> dict[str, Any]:
        """The file of the Provider as it was made."""
        return toml.parse(self.original)

    def run_with(self, tables: dict[str, Any], *arguments: str) -> tuple[int, str]:
        """Exit status and all output."""
        node = self.net.node("provider1")
        node.config.write_text(toml.dump(tables))
        done = twistd("katzenmix", "-f", str(node.config), *arguments, cwd=node.folder)
        return done.returncode, done.stdout + done.stderr

    def test_every_block(self) -> None:
        """Each TOML block of the document loads alone, beside a valid [Server] and [PKI]."""
        blocks: tuple[dict[str, Any], ...] = (
            {"Logging": {"Disable": False, "File": "katzenpost.log", "Level": "DEBUG"}},
            {"Management": {"Enable": True, "Path": "/tmp/x.sock"}},
            {"Management": {"Disable": True}},
            {"Debug": {"NumSphinxWorkers": 1, "SchedulerSlack": 450, "SendDecoyTraffic": True, "GenerateOnly": False}},
            {"Provider": {"EnableEphemeralClients": True}},
            {"Provider": {"UserDB": {"Backend": "bolt", "Bolt": {"UserDB": "my_users.db"}}}},
            {"Provider": {"UserDB": {"ExternUserDB": {"ProviderURL": "http://localhost:8080/"}}}},
            {"Provider": {"SpoolDB": {"Backend": "bolt", "Bolt": {"SpoolDB": "my_spool.db"}}}},
            {"Provider": {
                "UserDB": {"Backend": "sql"}, "SpoolDB": {"Backend": "sql"},
                "SQLDB": {"Backend": "pgx", "DataSourceName": "postgresql://provider:x@127.0.0.1:5433/katzenpost"},
            }},
            {"Provider": {"Kaetzchen": [{"Capability": "loop", "Endpoint": "+loop", "Disable": False}]}},
        )  # fmt: skip
        for block in blocks:
            tables = self.tables()
            nonvoting(tables, "base64")
            for name in ("Provider", "Management", "Logging", "Debug"):
                tables.pop(name, None)
            status, said = self.run_with({**tables, **block}, "--validate-only")
            self.assertEqual(status, 0, f"{block}: {said}")

    def test_mixes_and_providers_differ(self) -> None:
        """[Provider] needs IsProvider; IsProvider needs no [Provider]."""
        tables = self.tables()
        del tables["Provider"]
        self.assertEqual(self.run_with(tables, "--validate-only")[0], 0)
        tables = self.tables()
        del tables["Server"]["IsProvider"]
        status, said = self.run_with(tables, "--validate-only")
        self.assertEqual(status, 1, said)
        self.assertIn("Provider", said)

    def services_refused(self, words: str, *services: dict[str, Any], plugins: tuple[dict[str, Any], ...] = ()) -> None:
        """These are not run: status 1, the key's path and these words."""
        tables = self.tables()
        tables["Provider"].update(Kaetzchen=list(services), CBORPluginKaetzchen=list(plugins))
        status, said = self.run_with(tables)
        self.assertEqual(status, 1, said)
        self.assertIn(words, said)
        self.assertNotIn("Traceback", said)

    def test_endpoint(self) -> None:
        """A lower-case local part of 1 to 32 bytes, for one service only."""
        for endpoint in ("+Echo", "a b", "", "x" * 33, "a..b"):
            self.services_refused("Provider.Kaetzchen[0].Endpoint", {"Capability": "echo", "Endpoint": endpoint})
        self.services_refused(
            "Provider.Kaetzchen[1].Endpoint: endpoint '+x' is already registered by 'echo'",
            {"Capability": "echo", "Endpoint": "+x"},
            {"Capability": "loop", "Endpoint": "+x"},
        )

    def test_capability(self) -> None:
        """Mandatory, known, and only once over both lists."""
        echo = {"Capability": "echo", "Endpoint": "+echo"}
        self.services_refused("Provider.Kaetzchen[0].Capability", {"Endpoint": "+echo"})
        self.services_refused("Unsupported capability: 'nothing'", {"Capability": "nothing", "Endpoint": "+x"})
        self.services_refused(
            "Provider.CBORPluginKaetzchen[0].Capability: Kaetzchen: 'echo' configured multiple times",
            echo,
            plugins=({"Capability": "echo", "Endpoint": "+other", "Command": "/bin/false", "Disable": True},),
        )

    def test_identifier(self) -> None:
        """Mandatory."""
        tables = self.tables()
        del tables["Server"]["Identifier"]
        status, said = self.run_with(tables)
        self.assertEqual(status, 1)
        self.assertIn("Identifier", said)

    def test_data_dir_absolute(self) -> None:
        """A relative one is refused."""
        tables = self.tables()
        tables["Server"]["DataDir"] = "var/kp"
        status, said = self.run_with(tables)
        self.assertEqual(status, 1)
        self.assertIn("not an absolute path", said)

    def test_debug_identity_key(self) -> None:
        """That identity is used; no identity file is written."""
        seed = bytes(range(32))
        tables = self.tables()
        folder = self.net.folder / "other"
        tables["Server"]["DataDir"] = str(folder)
        tables["Debug"] = {"IdentityKey": seed.hex()}
        status, said = self.run_with(tables, "-g")
        self.assertEqual(status, 0, said)
        _, public = sign.by_name("Ed25519").keypair_from_seed(seed)
        self.assertIn(public.hex(), said.lower())
        self.assertEqual([p.name for p in folder.glob("identity*")], [])

    def test_generate_only(self) -> None:
        """As -g: status 0 at once, key files, no socket."""
        tables = self.tables()
        folder = self.net.folder / "fresh"
        tables["Server"]["DataDir"] = str(folder)
        tables["Debug"] = {"GenerateOnly": True}
        status, said = self.run_with(tables)
        self.assertEqual(status, 0, said)
        self.assertTrue((folder / "identity.private.pem").exists())
        self.assertTrue((folder / "service" / "link.private.pem").exists())
        self.assertFalse((folder / "management_sock").exists())
        self.assertFalse((folder / "users.db").exists())

    def test_level(self) -> None:
        """Five values, any case; others are refused."""
        for level, good in (("ERROR", True), ("Warning", True), ("notice", True), ("INFO", True), ("TRACE", False)):
            tables = self.tables()
            tables["Logging"] = {"Level": level}
            self.assertEqual(self.run_with(tables, "--validate-only")[0], 0 if good else 1)
