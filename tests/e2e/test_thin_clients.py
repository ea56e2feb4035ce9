"""Real daemons in a real network: the published thin client, ours, the examples, the tools (spec: client 20, 20.1)."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from katzentwist.thin.blocking import ThinClient
from katzentwist.thin.config import load_dial
from katzentwist.thin.protocol import FrameBuffer, encode_request, frame, parse_response
from tests.e2e import published
from tests.e2e.clientside import ClientSideCase, Daemon
from tests.e2e.processes import ROOT, cli, environment, twistd, wait_for
from tests.vectorfiles import load

EXAMPLES = ROOT / "examples"


class WebPages(http.server.BaseHTTPRequestHandler):
    """Says what it was asked; one page is missing, one is long."""

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(404 if self.path == "/missing" else 200)
        self.send_header("X-Colour", str(self.headers.get("X-Colour")))
        self.end_headers()
        self.wfile.write(f"{self.command} {self.path} ".encode() + body + b"x" * (5000 if self.path == "/long" else 0))

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        """Nothing."""


class PublishedTests(ClientSideCase):
    """katzenpost-thinclient 0.0.25, unmodified (spec: client 20, point 2)."""

    def check_everything(self, daemon: Daemon) -> None:
        """Documents, geometries, echo, refusals, one way, raw document, authorities."""
        out = published.run(published.EVERYTHING, daemon)
        self.assertEqual(out["status"][0], True)
        self.assertEqual(out["geometry"], [2000, True])
        self.assertEqual(out["queue"], "+echo")
        self.assertEqual(out["echo"], ["hello", 2574, True])
        self.assertGreaterEqual(out["docs"], 1)
        self.assertEqual(out["raw"], [True, True])
        self.assertIn("Service unavailable", out["raw1"])
        self.assertEqual(out["authorities"], ["auth1"])
        errors = {surb: err for surb, err, *_ in out["sent"]}
        self.assertEqual(errors[out["big"]], "message too large: 2001 > 2000")
        self.assertIn("service not found", errors[out["unknown"]])
        [good] = [s for s in out["sent"] if not s[1]]
        self.assertGreater(good[2], 0)
        self.assertEqual((out["full"], out["overdue"]), (True, "TimeoutError"))
        self.assertEqual(out["choice"], ["provider1-service", "provider2-service"])
        self.assertEqual(out["nothing"], "service not found in pki doc")
        written = f"{b'one way'.ljust(2000, bytes(1)).hex()} False\n"
        wait_for("the message without reply", lambda: written in self.side.records())

    def test_tcp(self) -> None:
        """Over TCP, as testnet writes it."""
        with self.side.daemon(self.side.tcp()) as daemon:
            self.check_everything(daemon)

    def test_unix(self) -> None:
        """Over a UNIX socket."""
        side = self.side
        path = side.live.network.folder / "app.socket"
        with side.daemon({"Unix": {"Address": str(path)}}) as daemon:
            self.check_everything(daemon)
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertFalse(path.exists())

    def test_abstract(self) -> None:
        """Over an abstract socket; several applications at once, theirs and ours, are one client to the gateways."""
        name = f"@katzentwist-test-{os.getpid()}"
        side = self.side
        wait_for("the end of other sessions", lambda: side.clients() == 0)
        with (
            side.daemon({"Unix": {"Address": name}}) as daemon,
            ThinClient(daemon.thin) as ours,
            ThreadPoolExecutor(1) as beside,
        ):
            theirs = beside.submit(published.run, published.MANY, daemon)
            destination = ours.get_service("echo").to_destination()
            for i in range(10):
                reply = ours.blocking_send_message(f"ours {i}".encode(), *destination, 60)
                self.assertEqual(reply.rstrip(b"\0").decode(), f"ours {i}")
                self.assertEqual(side.clients(), 1)
            self.assertEqual(theirs.result(), [[f"{n} {i}" for i in range(3)] for n in ("first", "second")])

    def test_pigeonhole(self) -> None:
        """All 16 calls of client 15 (this version exposes each) fail cleanly and at once."""
        with self.side.daemon() as daemon:
            out = published.run(published.PIGEONHOLE, daemon)
            self.assertEqual(len(out), 16)
            for name in ("start_resending_copy_command", "start_resending_encrypted_message"):
                self.assertIn("CourierPropagationError", out.pop(name))
            for name, result in out.items():
                self.assertIn("Service unavailable", result, name)
            self.check_frames(daemon)

    def check_frames(self, daemon: Daemon) -> None:
        """The same over a plain socket: three frames of the handshake, then the recorded replies, byte for byte."""
        expected = [c for c in load("client")["responses"] if c["name"].endswith("_reply_error")]
        stream = FrameBuffer()
        received: list[bytes] = []
        with socket.socket(socket.AF_UNIX) as plain:
            plain.settimeout(30)
            plain.connect("\0" + load_dial(daemon.thin).address[1:])
            plain.sendall(encode_request("session_token", client_instance_token=bytes(16)))
            for case in expected:
                [(name, fields)] = case["decoded"].items()
                query = bytes.fromhex(fields["query_id"][2:])
                plain.sendall(encode_request(name.removesuffix("_reply"), query_id=query))
            while len(received) < 3 + len(expected):
                data = plain.recv(1 << 16)
                self.assertTrue(data)
                stream.feed(data)
                received += stream
        first = [(parse_response(message) or ("",))[0] for message in received[:3]]
        self.assertEqual(first, ["connection_status_event", "new_pki_document_event", "session_token_reply"])
        self.assertEqual([frame(message).hex() for message in received[3:]], [case["frame"] for case in expected])

    def test_resume(self) -> None:
        """A reply that falls due while the application is away arrives after it came back."""
        with self.side.daemon() as daemon:
            out = published.run(published.RESUME, daemon)
            self.assertEqual(out, {"before": [], "replies": ["meanwhile"]})


class OwnTests(ClientSideCase):
    """Our library, by its examples, and the tools."""

    def test_examples(self) -> None:
        """Each example runs and prints what its page says."""
        expected = {
            "echo_client": "Hello, mixnet!",
            "echo_client_asyncio": "Hello, mixnet!",
            "echo_client_twisted": "Hello, mixnet!",
            "events_client": "which reply is which?",
            "reliable_client": "again and again",
        }
        with self.side.daemon() as daemon:
            running = {
                name: subprocess.Popen(
                    [sys.executable, str(EXAMPLES / f"{name}.py"), str(daemon.thin)],
                    env=environment(),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                )
                for name in expected
            }
            for name, process in running.items():
                output, _ = process.communicate(timeout=150)
                self.assertEqual(process.returncode, 0, output)
                self.assertIn(expected[name], output)

    def test_http_proxy(self) -> None:
        """The pair of examples: status, headers and bodies go through; what does not fit is said (client 16.6)."""

        def ask(method: str, url: str, body: bytes | None = None) -> tuple[int, str | None, bytes]:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            connection.request(method, url, body, {"X-Colour": "blue"})
            response = connection.getresponse()
            return response.status, response.getheader("X-Colour"), response.read()

        script = str(EXAMPLES / "http_proxy_client.py")
        web = http.server.ThreadingHTTPServer(("127.0.0.1", 0), WebPages)
        threading.Thread(target=web.serve_forever, daemon=True).start()
        pages = f"http://127.0.0.1:{web.server_port}"
        with self.side.daemon() as daemon:
            proxy = subprocess.Popen(
                [sys.executable, script, str(daemon.thin), "--port", "0", "--patience", "5"],
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            assert proxy.stdout is not None
            try:
                port = int(proxy.stdout.readline().rpartition(":")[2])
                self.assertEqual(ask("GET", f"{pages}/a?b=c"), (200, "blue", b"GET /a?b=c "))
                self.assertEqual(ask("POST", f"{pages}/form", b"x=1"), (200, "blue", b"POST /form x=1"))
                self.assertEqual(ask("GET", f"{pages}/missing")[0], 404)
                self.assertEqual(ask("GET", f"{pages}/long")[0], 502)
                for status, text in (
                    (ask("POST", f"{pages}/form", bytes(3000)), b"too large"),
                    (ask("GET", "http://localhost/"), b"no reply in 5 s"),
                    (ask("CONNECT", "127.0.0.1:443"), b"tunnels"),
                ):
                    self.assertEqual(status[0], 500)
                    self.assertIn(text, status[2])
            finally:
                proxy.terminate()
                proxy.wait()
                proxy.stdout.close()
                web.shutdown()
                web.server_close()

    def test_tools(self) -> None:
        """ping --thin, consensus --thin, and ping and consensus by themselves."""
        side = self.side
        with side.daemon() as daemon:
            done = cli("ping", "--thin", str(daemon.thin), "-n", "3", "-C", "3")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("Success rate is 100 percent (3/3)", done.stdout)
            done = cli("ping", "--thin", str(daemon.thin), "-s", "nothing")
            self.assertEqual(done.returncode, 1)
            self.assertIn("service not found in pki doc: nothing", done.stderr)
            done = cli("consensus", "--thin", str(daemon.thin), "--json")
            facts = json.loads(done.stdout)
            self.assertEqual([s["name"] for s in facts["signers"] if s["signed"]], ["auth1"])
        done = cli("ping", "-f", str(side.folder / "client.toml"), "-n", "3", "--json")
        self.assertEqual(json.loads(done.stdout)["received"], 3)
        for source in (["-f", str(side.folder / "client.toml")], ["--authority", str(side.live.node("auth1").config)]):
            self.assertIn("signed by 1 of 1", cli("consensus", *source).stdout)

    def test_user(self) -> None:
        """A fixed name and key are made once and used again."""
        side = self.side
        key = side.folder / "alice.pem"
        options = ["--user", "alice", "--link-key", str(key), "--gateway", "provider1"]
        first = cli("ping", "-f", str(side.folder / "client.toml"), "-n", "1", *options)
        self.assertEqual(first.returncode, 0, first.stderr)
        self.assertIn("ADD_USER alice", first.stdout)
        self.assertEqual(key.stat().st_mode & 0o777, 0o600)
        second = cli("ping", "-f", str(side.folder / "client.toml"), "-n", "1", *options)
        self.assertEqual(second.returncode, 0, second.stderr)
        self.assertNotIn("ADD_USER", second.stdout)

    def test_receive(self) -> None:
        """A message to a user of a Provider is printed, then acknowledged, then gone."""
        side = self.side
        config = str(side.folder / "client.toml")
        options = ["--user", "bob", "--link-key", str(side.folder / "bob.pem"), "--gateway", "provider1"]
        # Who logs on is known from then on: testnet trusts on first use.
        self.assertEqual(cli("ping", "-f", config, "-n", "1", *options).returncode, 0)
        with (
            side.daemon() as daemon,
            ThinClient(daemon.thin) as app,
        ):
            [service] = [s for s in app.get_services("echo") if s.mix_descriptor["Name"].startswith("provider1")]
            node, _ = service.to_destination()
            for text in (b"first for bob", b"second for bob"):
                app.send_message_without_reply(text, node, b"bob")
            done = cli("receive", "-f", config, *options, "-n", "1", timeout=120)
            self.assertEqual(done.returncode, 0, done.stderr)
            more = cli("receive", "-f", config, *options, "-n", "1", "--json", timeout=120)
            texts = {done.stdout.strip(), base64.b64decode(json.loads(more.stdout)["payload"]).rstrip(b"\0").decode()}
            self.assertEqual(texts, {"first for bob", "second for bob"})

    def test_proxy(self) -> None:
        """The daemon reaches its gateway through a real SOCKS5 server, and only through it."""
        side = self.side
        script = str(ROOT / "tests" / "e2e" / "socksserver.py")
        server = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            address = f"127.0.0.1:{int(server.stdout.readline())}"
            proxy = {"Type": "socks5", "Network": "tcp", "Address": address, "User": "alice", "Password": "secret"}
            with side.daemon(UpstreamProxy=proxy) as daemon:
                done = cli("ping", "--thin", str(daemon.thin), "-n", "2")
                self.assertIn("(2/2)", done.stdout, done.stderr)
                self.assertIn("connected to 127.0.0.1", server.stdout.readline())
        finally:
            server.kill()
            server.wait()
            server.stdout.close()

    def test_usage(self) -> None:
        """Wrong usage is status 2, a file that is not there status 1, each with one line."""
        for arguments, status in (
            (["ping"], 2),
            (["ping", "-f", "a", "--thin", "b"], 2),
            (["ping", "-f", "a", "-n", "0"], 2),
            (["ping", "-f", "a", "--user", "alice"], 2),
            (["consensus"], 2),
            (["ping", "-f", "/nowhere/client.toml"], 1),
            (["ping", "--thin", "/nowhere/thinclient.toml"], 1),
        ):
            done = cli(*arguments)
            self.assertEqual(done.returncode, status, (arguments, done.stderr))
            self.assertTrue(done.stderr.startswith(f"katzentwist {arguments[0]}: "), done.stderr)
            self.assertNotIn("Traceback", done.stderr)


class DaemonTests(ClientSideCase):
    """The program: start, end, what it says (spec: client 16.4)."""

    def test_shutdown(self) -> None:
        """Point 10: SIGTERM: shutdown_event, then the end of the stream, status 0."""
        with self.side.daemon() as daemon:
            script = (
                "import sys\n"
                "from katzentwist.thin.blocking import ThinClient\n"
                "client = ThinClient(sys.argv[1])\n"
                "client.start()\n"
                "sink = client.event_sink()\n"
                "print('ready', flush=True)\n"
                "print(type(sink.get(20)).__name__)\n"
                "event = sink.get(20)\n"
                "print(type(event).__name__, event.is_graceful, flush=True)\n"
                "client.stop()\n"
            )
            app = subprocess.Popen(
                [sys.executable, "-c", script, str(daemon.thin)],
                env=environment(),
                stdout=subprocess.PIPE,
                text=True,
            )
            assert app.stdout is not None
            self.assertEqual(app.stdout.readline(), "ready\n")
            self.assertEqual(daemon.stop(), 0)
            output, _ = app.communicate(timeout=30)
            self.assertEqual(output.splitlines(), ["ShutdownEvent", "DaemonDisconnected True"])

    def test_stale_socket(self) -> None:
        """The socket of a daemon that was killed is in nobody's way; that of a living one is."""
        side = self.side
        path = side.live.network.folder / "stale.socket"
        daemon = side.daemon({"Unix": {"Address": str(path)}})
        daemon.start()
        second = twistd("katzenclient", "-f", str(daemon.node.config), cwd=Path(side.folder))
        self.assertEqual(second.returncode, 1)
        self.assertIn("Listen.Unix.Address: can not listen on", second.stderr)
        daemon.stop(signal.SIGKILL)
        self.assertTrue(path.exists())
        daemon.start()
        self.assertEqual(daemon.stop(), 0)

    def test_validate(self) -> None:
        """--validate-only opens nothing and knows unknown keys; both spellings of the option."""
        side = self.side
        file = side.folder / "client.toml"
        good = twistd("katzenclient", "-c", str(file), "--validate-only", cwd=side.folder)
        self.assertEqual((good.returncode, good.stdout), (0, f"configuration file '{file}' is valid\n"), good.stderr)
        bad = side.folder / "bad.toml"
        bad.write_text("Nonsense = 1\n" + file.read_text())
        done = twistd("katzenclient", "-f", str(bad), "--validate-only", cwd=side.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn("unrecognised configuration keys: Nonsense", done.stderr)

    def test_daemon_restarted(self) -> None:
        """The published library comes back by itself, after an orderly end and after kill -9, to another daemon."""
        with self.side.daemon() as daemon, published.Watcher(daemon) as app:
            self.assertEqual(app.ask("before"), {"echo": "before"})
            overtaken = False
            for number, orderly in ((signal.SIGTERM, True), (signal.SIGKILL, False)):
                daemon.stop(number)
                wait_for("the loss", lambda: app.all("graceful"))
                # It may see the end of the stream before it has handled the shutdown_event that came first, and then
                # takes the next end for the announced one.
                [graceful] = app.all("graceful")
                self.assertTrue(graceful == orderly or (overtaken if graceful else orderly))
                overtaken = orderly and not graceful
                self.assertEqual(app.ask("meanwhile"), {"error": "ThinClientOfflineError"})
                before = app.all("instance")
                app.said.clear()
                daemon.start()
                wait_for("the application", lambda: app.all("connected")[-1:] == [True])
                self.assertNotIn(app.all("instance")[0], before)
                self.assertEqual(app.ask("again"), {"echo": "again"})

    def test_reopen_log(self) -> None:
        """SIGHUP: the log goes on in a new file, each time; the session lasts."""
        folder = self.side.live.network.folder / "logs"
        folder.mkdir()
        log = folder / "client.log"
        with self.side.daemon(Logging={"Level": "NOTICE", "File": str(log)}) as daemon:
            for name in ("one", "two"):
                log.rename(folder / name)
                os.kill(daemon.pid, signal.SIGHUP)
                wait_for("the new log file", log.exists)
            self.assertIn("(1/1)", cli("ping", "--thin", str(daemon.thin), "-n", "1").stdout)
            self.assertEqual(daemon.stop(), 0)
            self.assertIn("Shutdown complete.", log.read_text())
            self.assertIn("connected to gateway", (folder / "one").read_text())
            self.assertEqual(log.stat().st_mode & 0o777, 0o600)

    def test_never_reads(self) -> None:
        """Who asks and never reads is cut off when 64 MiB wait for it; meanwhile others are served."""
        path = self.side.live.network.folder / "deaf.socket"
        with self.side.daemon({"Unix": {"Address": str(path)}}) as daemon, ThinClient(daemon.thin) as app:
            node, queue = app.get_service("echo").to_destination()
            size = len(app.get_pki_document_raw()[0])
            before = _resident(daemon.pid)
            request = encode_request("get_pki_document", query_id=bytes(16), epoch=0)
            with socket.socket(socket.AF_UNIX) as deaf:
                deaf.settimeout(30)
                deaf.connect(str(path))
                part = request * ((8 << 20) // size)
                for _ in range(4):
                    deaf.sendall(part)
                reply = app.blocking_send_message(b"in between", node, queue, 60)
                self.assertTrue(reply.startswith(b"in between"))
                with self.assertRaises((BrokenPipeError, ConnectionResetError)):
                    for _ in range(12):
                        deaf.sendall(part)
            self.assertLess(_resident(daemon.pid) - before, 160 << 20)
            reply = app.blocking_send_message(b"afterwards", node, queue, 60)
            self.assertTrue(reply.startswith(b"afterwards"))


def _resident(pid: int) -> int:
    """Bytes of memory of a process."""
    return int((Path("/proc") / str(pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
