"""The management socket of a running Provider, from outside (provider 10.6; each test is named after its row)."""

from __future__ import annotations

import base64
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from katzentwist.pki.document import Document
from katzentwist.testnet.plan import Node, Shape
from tests.e2e.processes import LiveNetwork, cli, environment, metrics, wait_for
from tests.e2e.sharing import SharedNetworkCase
from tests.vectorfiles import load

KEY = "ed307383f3fb7a5f0a1f50d533c6bf91df843349542232aee74d5cdd1bbdfa66"
OK = "250 Requested action ok, completed"
SYNTAX = "501 Syntax error in parameters or arguments"
FAILED = "554 Transaction failed"


def asking(client: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Ask a service through the network."""
    return subprocess.run(
        [sys.executable, "-m", "tests.e2e.asking", str(client), *arguments],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(node: Node) -> set[str]:
    """The capabilities of all service nodes in the newest document that a node holds."""
    files = sorted((node.folder / "consensus").glob("*.cbor"), key=lambda f: int(f.stem))
    document = Document.parse(files[-1].read_bytes(), int(files[-1].stem))
    return {name for d in document.service_nodes for name in d.kaetzchen or {}}


class ManagementTests(SharedNetworkCase):
    """One network for all rows."""

    @classmethod
    def make(cls) -> LiveNetwork:
        """A Provider with two services that echo, and a mix without a socket."""
        net = LiveNetwork(Shape(epoch="10s", wire_kem="x25519", mu=0.02, lambda_p=0.02))

        def provider(tables: dict[str, Any]) -> None:
            tables["Provider"]["Kaetzchen"].append({"Capability": "testdest", "Endpoint": "+testdest"})

        net.edit("provider1", provider)
        net.edit("mix2", lambda tables: tables.pop("Management"))
        return net

    def setUp(self) -> None:
        """Short names."""
        super().setUp()
        self.provider = self.net.node("provider1")
        self.client = self.net.network.client / "client.toml"

    def connect(self) -> socket.socket:
        """A session, greeting read."""
        talk = socket.socket(socket.AF_UNIX)
        self.addCleanup(talk.close)
        talk.settimeout(10)
        talk.connect(str(self.provider.folder / "management_sock"))
        self.assertEqual(self.line(talk), "220 provider1 Katzenpost Management Interface Service ready")
        return talk

    def line(self, talk: socket.socket) -> str:
        """One reply line; empty at the end of file."""
        out = b""
        while not out.endswith(b"\r\n"):
            byte = talk.recv(1)
            if not byte:
                return out.decode()
            out += byte
        return out[:-2].decode()

    def say(self, command: str) -> str:
        """The reply to one command, by a session of its own."""
        with self.connect() as talk:
            talk.sendall(command.encode() + b"\r\n")
            return self.line(talk)

    def ping(self, user: str, key: Path) -> bool:
        """Whether a user gets through with a key."""
        done = self.net.ping(1, "--user", user, "--link-key", str(key), timeout=90)
        return done.returncode == 0

    def refused(self, user: str, key: Path) -> bool:
        """Whether the Provider turns a user with this key away."""
        return self.net.refused("provider1", "--user", user, "--link-key", str(key))

    def new_key(self, name: str) -> tuple[Path, bytes]:
        """A link key in a file, and its public half."""
        from katzentwist.crypto import kem, keys
        from katzentwist.node.keyfiles import write_file
        from katzentwist.randomness import SystemRandom

        scheme = kem.by_name("x25519")
        private, public = scheme.generate(SystemRandom())
        path = self.net.folder / f"{name}.private.pem"
        write_file(path, keys.encode_private(scheme, private))
        return path, public

    # Rows ----------------------------------------------------------------------------------------------------------

    def test_line_protocol(self) -> None:
        """Greeting; LF and CR LF; several commands in one write; end of file."""
        talk = self.connect()
        talk.sendall(b"SEND_RATE 0\nSEND_BURST 4\r\nNOSUCH\n")
        self.assertEqual(
            [self.line(talk) for _ in range(3)], ["250 0", "250 4", "500 Syntax error, command unrecognised"]
        )
        talk.shutdown(socket.SHUT_WR)
        self.assertEqual(self.line(talk), "")

    def test_quit(self) -> None:
        """QUIT: 250, closed."""
        talk = self.connect()
        talk.sendall(b"QUIT\n")
        self.assertEqual((self.line(talk), self.line(talk)), (OK, ""))

    def test_strange_clients(self) -> None:
        """A client that never reads, and one that never ends its line: others are served."""
        deaf, endless = self.connect(), self.connect()
        deaf.setblocking(False)
        try:
            for _ in range(2000):
                deaf.send(b"NOSUCH\n" * 1000)
        except BlockingIOError:
            pass
        try:
            for _ in range(64):
                endless.sendall(b"x" * 65536)
        except (BrokenPipeError, ConnectionResetError):
            pass
        self.assertEqual(self.say("SEND_BURST 4"), "250 4")

    def test_add_user(self) -> None:
        """ADD_USER in hex and base64: the user connects with that key, and not with another."""
        path, public = self.new_key("alice")
        self.assertEqual(self.say(f"ADD_USER alice {public.hex()}"), OK)
        self.assertEqual(self.say(f"ADD_USER alice {public.hex()}"), FAILED)
        self.assertTrue(self.ping("alice", path))
        self.assertTrue(self.refused("alice", self.new_key("mallory")[0]))
        self.assertEqual(self.say(f"ADD_USER bob {base64.b64encode(public).decode()}"), OK)
        self.assertEqual(self.say("USER_LINK BOB"), f"250 {base64.b64encode(public).decode()}")
        self.assertEqual(self.say("ADD_USER carol ed30"), SYNTAX)
        self.assertEqual(self.say("ADD_USER carol garbage!"), SYNTAX)
        self.assertEqual(self.say(f"ADD_USER carol {public.hex()} more"), SYNTAX)

    def test_update_user(self) -> None:
        """UPDATE_USER: the old key is refused, the new one accepted; unknown user: 554."""
        (old_path, old), (path, new) = self.new_key("dave-old"), self.new_key("dave")
        self.assertEqual(self.say(f"UPDATE_USER dave {old.hex()}"), FAILED)
        self.assertEqual(self.say(f"ADD_USER dave {old.hex()}"), OK)
        self.assertEqual(self.say(f"UPDATE_USER dave {new.hex()}"), OK)
        self.assertTrue(self.ping("dave", path))
        self.assertTrue(self.refused("dave", old_path))

    def test_remove_user(self) -> None:
        """REMOVE_USER: gone; unknown: 554; with an identity key only after REMOVE_USER_IDENTITY."""
        _, public = self.new_key("erin")
        self.assertEqual(self.say(f"ADD_USER erin {public.hex()}"), OK)
        self.assertEqual(self.say(f"SET_USER_IDENTITY erin {KEY}"), OK)
        self.assertEqual(self.say("REMOVE_USER erin"), FAILED)
        self.assertEqual(self.say("USER_IDENTITY erin"), f"250 {base64.b64encode(bytes.fromhex(KEY)).decode()}")
        self.assertEqual(self.say("REMOVE_USER_IDENTITY erin"), OK)
        self.assertEqual(self.say("USER_IDENTITY erin"), FAILED)
        self.assertEqual(self.say("REMOVE_USER erin"), OK)
        self.assertEqual(self.say("REMOVE_USER erin"), FAILED)

    def test_set_user_identity(self) -> None:
        """SET_USER_IDENTITY in hex and base64; the keyserver shows it over the mix network; unknown user: 554."""
        _, public = self.new_key("frank")
        shown = base64.b64encode(bytes.fromhex(KEY)).decode()
        self.assertEqual(self.say(f"SET_USER_IDENTITY nobody {KEY}"), FAILED)
        self.assertEqual(self.say(f"ADD_USER frank {public.hex()}"), OK)
        for form in (KEY, shown):
            self.assertEqual(self.say(f"SET_USER_IDENTITY frank {form}"), OK)
        done = asking(self.client, "+keyserver", '{"Version":0,"User":"frank"}')
        self.assertEqual(done.returncode, 0, done.stderr)
        answer = json.loads(bytes.fromhex(done.stdout).rstrip(b"\0"))
        self.assertEqual(answer, {"PublicKey": shown, "StatusCode": 0, "User": "frank", "Version": 0})

    def test_send_rate_and_burst(self) -> None:
        """SEND_RATE 300: of 20 packets at once as many get through as SEND_BURST says, the rest is counted."""
        self.assertEqual((self.say("SEND_RATE 300"), self.say("SEND_BURST 4")), ("250 300", "250 4"))
        name = 'katzenpost_dropped_reason_total{reason="gateway_rate_limited"}'
        for burst in (4, 9):
            self.assertEqual(self.say(f"SEND_BURST {burst}"), f"250 {burst}")
            before = metrics(self.provider).get(name, 0)
            done = asking(self.client, "+echo", "x", "--burst", "20", "--quiet", "2.5", "--patience", "4")
            # Five tokens come per second, and a busy client needs a moment for 20 packets.
            self.assertIn(int(done.stdout), range(burst, burst + 3), done.stderr)
            self.assertIn(metrics(self.provider)[name] - before, range(18 - burst, 21 - burst))
        self.assertEqual(self.say("SEND_RATE 0"), "250 0")

    def test_start_and_stop_kaetzchen(self) -> None:
        """STOP: no answer, and it leaves the descriptor; START: it answers again, and is back in it."""
        self.assertIn("testdest", services(self.provider))
        self.assertEqual(self.say("STOP_KAETZCHEN testdest"), "250 testdest")
        self.assertEqual(self.say("STOP_KAETZCHEN testdest"), FAILED)
        self.assertEqual(self.say("STOP_KAETZCHEN a b"), SYNTAX)
        self.assertNotEqual(asking(self.client, "+testdest", "x", "--patience", "2").returncode, 0)
        wait_for("a document without testdest", lambda: "testdest" not in services(self.provider), 45)
        self.assertEqual(self.say("START_KAETZCHEN testdest"), "250 testdest")
        self.assertEqual(self.say("START_KAETZCHEN testdest"), FAILED)
        self.assertEqual(asking(self.client, "+testdest", "x").returncode, 0)
        wait_for("a document with testdest", lambda: "testdest" in services(self.provider), 45)

    def test_no_decoys_unasked(self) -> None:
        """Without SendDecoyTraffic no node sends loops."""
        for node in self.net.network.nodes:
            if node.metrics:
                self.assertEqual(metrics(node)["katzenpost_decoy_loops_sent_total"], 0)

    def test_only_with_management_on(self) -> None:
        """No socket otherwise; and on a mix no commands about users."""
        self.assertFalse((self.net.node("mix2").folder / "management_sock").exists())
        done = cli("manage", str(self.net.node("mix1").folder), "SEND_RATE", "3")
        self.assertEqual((done.returncode, done.stdout), (1, "500 Syntax error, command unrecognised\n"))

    def test_manage(self) -> None:
        """``katzentwist manage``: one-shot with JSON, by lines on standard input, and where nobody listens."""
        done = cli("manage", "--json", str(self.provider.folder), "SEND_BURST", "4")
        self.assertEqual(json.loads(done.stdout), {"code": 250, "text": "4"})
        done = subprocess.run(
            [sys.executable, "-m", "katzentwist", "manage", str(self.provider.folder)],
            input="SEND_BURST 4\nNOSUCH\nQUIT\n",
            env=environment(),
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        self.assertEqual([x[:3] for x in done.stdout.splitlines()], ["250", "500", "250"])
        self.assertEqual(cli("manage", str(self.net.node("mix2").folder), "QUIT").returncode, 1)

    def test_zy_manage_shutdown(self) -> None:
        """SHUTDOWN has no reply, so no code is shown for it; what is typed behind it is not sent. (It runs late.)"""
        for name, arguments, typed, shown in (
            ("mix1", ("SHUTDOWN",), None, "the node shuts down\n"),
            ("mix3", (), "shutdown\nNOSUCH\n", "the node shuts down\n"),
        ):
            done = subprocess.run(
                [sys.executable, "-m", "katzentwist", "manage", str(self.net.node(name).folder), *arguments],
                input=typed,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=30,
                check=False,
            )
            self.assertEqual((done.returncode, done.stdout), (0, shown), done.stderr)
            self.assertEqual(self.net.child(name).process.wait(15), 0)

    def test_zz_shutdown(self) -> None:
        """SHUTDOWN with a second session open: status 0, the socket is gone, the keys are kept. (It runs last.)"""
        other = self.connect()
        self.assertEqual(self.say("SHUTDOWN"), "")
        child = self.net.child("provider1")
        self.assertEqual(child.process.wait(15), 0, child.last_lines())
        self.assertEqual(self.line(other), "")
        self.assertFalse((self.provider.folder / "management_sock").exists())
        self.assertTrue((self.provider.folder / "identity.private.pem").exists())
        self.assertIn("Shutdown complete.", child.last_lines())


class TranscriptTests(SynchronousTestCase):
    """A Provider alone."""

    def test_halves_in_the_log(self) -> None:
        """What both halves say at the start has the name of each; nothing is there twice."""
        with LiveNetwork(Shape(mixes=1, layers=1, wire_kem="x25519")) as net:

            def change(tables: dict[str, Any]) -> None:
                tables["Logging"]["Level"] = "INFO"
                del tables["Server"]["PersistMixKeysOnShutdown"], tables["Server"]["PersistMixKeysOnShutdownDir"]

            net.edit("provider1", change)
            net.children.add(net.node("provider1"))
            wait_for("the socket", (net.node("provider1").folder / "management_sock").exists)
            output = net.child("provider1").output.read_text()
            lines = [line[13:] for line in output.splitlines() if line[2:3] == ":"]
            for line in (
                "INFO scheduler/{}: Initializing memory queue.",
                "NOTI server/{}: mix keys are kept in memory only",
                "NOTI listener/{}: listening on",
            ):
                for half in ("gateway", "service"):
                    self.assertEqual(sum(x.startswith(line.format(half)) for x in lines), 1, output)
            self.assertEqual(len(set(lines)), len(lines), output)

    def test_wrong_syntax(self) -> None:
        """The transcript of the vectors, wrong commands and all, with what follows REMOVE_USER as it must be here."""
        with LiveNetwork(Shape(mixes=1, layers=1, wire_kem="x25519")) as net:
            provider = net.node("provider1")
            net.edit("provider1", lambda tables: tables["Server"].update(Identifier="example.com"))
            net.children.add(provider)
            path = provider.folder / "management_sock"
            wait_for("the socket", path.exists)
            with socket.socket(socket.AF_UNIX) as talk:
                talk.settimeout(10)
                talk.connect(str(path))
                with talk.makefile("rb") as replies:
                    for number, entry in enumerate(load("provider")["management"]):
                        line = entry.get("differs", entry["line"])
                        if entry["dir"] == "C":
                            talk.sendall(line.encode())
                        else:
                            expected = b"" if line == "<EOF>" else line.encode()
                            self.assertEqual(replies.readline(), expected, (number, entry))
