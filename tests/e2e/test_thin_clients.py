"""Real daemons in a real network: the published thin client, ours, the examples, the tools (spec: client 20, 20.1)."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SkipTest, SynchronousTestCase

from katzentwist.thin.blocking import ThinClient
from tests.e2e.clientside import Daemon, client_side, published_python, run_script
from tests.e2e.processes import ROOT, cli, environment, twistd, wait_for

EXAMPLES = ROOT / "examples"

PUBLISHED_ALL = """
import asyncio, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
out = {"status": [], "docs": 0, "sent": [], "replies": []}
async def status(e): out["status"].append(e["is_connected"])
async def doc(e): out["docs"] += 1
async def sent(e): out["sent"].append([e["surbid"].hex(), e.get("err"), e["reply_eta"], e["sent_at"]])
async def reply(e): out["replies"].append([e["surbid"].hex(), e["error_code"], len(e["payload"])])
async def main():
    c = ThinClient(Config(sys.argv[1], on_connection_status=status, on_new_pki_document=doc, on_message_sent=sent,
                          on_message_reply=reply))
    await c.start(asyncio.get_running_loop())
    g = c.geometry
    out["geometry"] = [getattr(g, "UserForwardPayloadLength", None), c.pigeonhole_geometry is not None]
    out["epoch"] = c.pki_document()["Epoch"]
    s = c.get_service("echo")
    node, queue = s.to_destination()
    out["queue"] = queue.decode()
    r = await c.blocking_send_message(b"hello", node, queue, 60)
    out["echo"] = [r[:5].decode(), len(r), r[5:] == bytes(len(r) - 5)]
    big, unknown = c.new_surb_id(), c.new_surb_id()
    await c.send_message(big, b"x" * 2001, node, queue)
    await c.send_message(unknown, b"x" * 2000, bytes(32), queue)
    await c.send_message_without_reply(b"one way", node, queue)
    raw, epoch = await c.get_pki_document_raw(0)
    out["raw"] = [len(raw) > 1000, epoch >= out["epoch"]]
    try:
        await c.get_pki_document_raw(1)
    except Exception as e:
        out["raw1"] = str(e)
    out["authorities"] = [a["identifier"] for a in await c.get_directory_authorities()]
    while len(out["sent"]) < 3:
        await asyncio.sleep(0.1)
    out["big"], out["unknown"] = big.hex(), unknown.hex()
    c.stop()
    await asyncio.sleep(0.1)
asyncio.run(main())
print(json.dumps(out))
"""

PUBLISHED_PIGEONHOLE = """
import asyncio, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
async def main():
    c = ThinClient(Config(sys.argv[1]))
    await c.start(asyncio.get_running_loop())
    calls = {
        "new_keypair": lambda: c.new_keypair(bytes(32)),
        "encrypt_read": lambda: c.encrypt_read(b"r", b"i"),
        "encrypt_write": lambda: c.encrypt_write(b"p", b"w", b"i"),
        "cancel_resending_encrypted_message": lambda: c.cancel_resending_encrypted_message(bytes(32)),
        "next_message_box_index": lambda: c.next_message_box_index(b"i"),
        "get_message_box_index_counter": lambda: c.get_message_box_index_counter(b"i"),
        "cancel_resending_copy_command": lambda: c.cancel_resending_copy_command(bytes(32)),
        "start_resending_copy_command": lambda: c.start_resending_copy_command(b"w"),
        "voucher_mint": lambda: c.voucher_mint(b"w", "name"),
        "voucher_induct": lambda: c.voucher_induct(b"v", b"p", b"r"),
        "voucher_open": lambda: c.voucher_open(b"k", b"s", b"w"),
        "voucher_derive_stream": lambda: c.voucher_derive_stream(b"v"),
    }
    out = {}
    for name, call in calls.items():
        try:
            await asyncio.wait_for(call(), 5)
            out[name] = "success"
        except asyncio.TimeoutError:
            out[name] = "hangs"
        except Exception as e:
            out[name] = type(e).__name__ + ": " + str(e)
    c.stop()
    await asyncio.sleep(0.1)
    print(json.dumps(out))
asyncio.run(main())
"""

PUBLISHED_RESUME = """
import asyncio, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
out = {"replies": []}
async def reply(e): out["replies"].append(e["payload"].rstrip(b"\\0").decode())
sent = asyncio.Event()
async def on_sent(e): sent.set()
async def main():
    loop = asyncio.get_running_loop()
    c = ThinClient(Config(sys.argv[1], on_message_reply=reply, on_message_sent=on_sent))
    await c.start(loop)
    node, queue = c.get_service("echo").to_destination()
    await c.send_message(c.new_surb_id(), b"meanwhile", node, queue)
    await asyncio.wait_for(sent.wait(), 30)
    out["before"] = list(out["replies"])
    c.socket.shutdown(2)  # the library connects again by itself, with the same token
    for _ in range(100):
        await asyncio.sleep(0.1)
        if out["replies"]:
            break
    c.stop()
    await asyncio.sleep(0.1)
asyncio.run(main())
print(json.dumps(out))
"""

PUBLISHED_MANY = """
import asyncio, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
async def one(name):
    c = ThinClient(Config(sys.argv[1]))
    await c.start(asyncio.get_running_loop())
    node, queue = c.get_service("echo").to_destination()
    got = []
    for i in range(3):
        r = await c.blocking_send_message(f"{name} {i}".encode(), node, queue, 60)
        got.append(r.rstrip(b"\\0").decode())
    c.stop()
    return got
async def main():
    print(json.dumps(await asyncio.gather(one("first"), one("second"))))
    await asyncio.sleep(0.1)
asyncio.run(main())
"""


def published(script: str, daemon: Daemon) -> Any:
    """What a script with the published library printed."""
    python = published_python()
    if python is None:
        raise SkipTest("katzenpost-thinclient 0.0.25 can not be installed here (no PyPI?)")
    done = run_script(python, script, str(daemon.thin))
    if done.returncode:
        raise AssertionError(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class PublishedTests(SynchronousTestCase):
    """katzenpost-thinclient 0.0.25, unmodified (spec: client 20, point 2)."""

    def check_everything(self, daemon: Daemon) -> None:
        """Documents, geometries, echo, refusals, one way, raw document, authorities."""
        out = published(PUBLISHED_ALL, daemon)
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

    def test_tcp(self) -> None:
        """Over TCP, as testnet writes it."""
        with client_side().daemon() as daemon:
            self.check_everything(daemon)

    def test_unix(self) -> None:
        """Over a UNIX socket."""
        side = client_side()
        path = side.live.network.folder / "app.socket"
        with side.daemon({"Unix": {"Address": str(path)}}) as daemon:
            self.check_everything(daemon)
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertFalse(path.exists())

    def test_abstract(self) -> None:
        """Over an abstract socket, and several applications at once."""
        name = f"@katzentwist-test-{os.getpid()}"
        with client_side().daemon({"Unix": {"Address": name}}) as daemon:
            out = published(PUBLISHED_MANY, daemon)
            self.assertEqual(out, [[f"{n} {i}" for i in range(3)] for n in ("first", "second")])

    def test_pigeonhole(self) -> None:
        """Every call fails cleanly and at once."""
        with client_side().daemon({"Unix": {"Address": f"@katzentwist-p-{os.getpid()}"}}) as daemon:
            out = published(PUBLISHED_PIGEONHOLE, daemon)
            propagation = out.pop("start_resending_copy_command")
            self.assertIn("CourierPropagationError", propagation)
            for name, result in out.items():
                self.assertIn("Service unavailable", result, name)

    def test_resume(self) -> None:
        """A reply that falls due while the application is away arrives after it came back."""
        with client_side().daemon({"Unix": {"Address": f"@katzentwist-r-{os.getpid()}"}}) as daemon:
            out = published(PUBLISHED_RESUME, daemon)
            self.assertEqual(out, {"before": [], "replies": ["meanwhile"]})


class OwnTests(SynchronousTestCase):
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
        with client_side().daemon({"Unix": {"Address": f"@katzentwist-e-{os.getpid()}"}}) as daemon:
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
                output, _ = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 0, output)
                self.assertIn(expected[name], output)

    def test_tools(self) -> None:
        """ping --thin, consensus --thin, and ping and consensus by themselves."""
        side = client_side()
        with side.daemon({"Unix": {"Address": f"@katzentwist-t-{os.getpid()}"}}) as daemon:
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
        side = client_side()
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
        side = client_side()
        config = str(side.folder / "client.toml")
        options = ["--user", "bob", "--link-key", str(side.folder / "bob.pem"), "--gateway", "provider1"]
        # Who logs on is known from then on: testnet trusts on first use.
        self.assertEqual(cli("ping", "-f", config, "-n", "1", *options).returncode, 0)
        with (
            side.daemon({"Unix": {"Address": f"@katzentwist-b-{os.getpid()}"}}) as daemon,
            ThinClient(daemon.thin) as app,
        ):
            [service] = [s for s in app.get_services("echo") if s.mix_descriptor["Name"].startswith("provider1")]
            node, _ = service.to_destination()
            for text in (b"first for bob", b"second for bob"):
                app.send_message_without_reply(text, node, b"bob")
            done = cli("receive", "-f", config, *options, "-n", "1")
            self.assertEqual(done.returncode, 0, done.stderr)
            more = cli("receive", "-f", config, *options, "-n", "1", "--json")
            texts = {done.stdout.strip(), base64.b64decode(json.loads(more.stdout)["payload"]).rstrip(b"\0").decode()}
            self.assertEqual(texts, {"first for bob", "second for bob"})

    def test_proxy(self) -> None:
        """The daemon reaches its gateway through a real SOCKS5 server, and only through it."""
        side = client_side()
        script = str(ROOT / "tests" / "e2e" / "socksserver.py")
        server = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
        assert server.stdout is not None
        try:
            address = f"127.0.0.1:{int(server.stdout.readline())}"
            proxy = {"Type": "socks5", "Network": "tcp", "Address": address, "User": "alice", "Password": "secret"}
            listen = {"Unix": {"Address": f"@katzentwist-x-{os.getpid()}"}}
            with side.daemon(listen, UpstreamProxy=proxy) as daemon:
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


class DaemonTests(SynchronousTestCase):
    """The program: start, end, what it says (spec: client 16.4)."""

    def test_shutdown(self) -> None:
        """Point 10: SIGTERM: shutdown_event, then the end of the stream, status 0."""
        with client_side().daemon({"Unix": {"Address": f"@katzentwist-s-{os.getpid()}"}}) as daemon:
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
        side = client_side()
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
        side = client_side()
        file = side.folder / "client.toml"
        good = twistd("katzenclient", "-c", str(file), "--validate-only", cwd=side.folder)
        self.assertEqual((good.returncode, good.stdout), (0, f"configuration file '{file}' is valid\n"), good.stderr)
        bad = side.folder / "bad.toml"
        bad.write_text("Nonsense = 1\n" + file.read_text())
        done = twistd("katzenclient", "-f", str(bad), "--validate-only", cwd=side.folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn("unrecognised configuration keys: Nonsense", done.stderr)

    def test_gateway_restarted(self) -> None:
        """The gateway ends: false, once; it comes back, or another one serves: true; a ping gets through again."""
        side = client_side()
        with side.daemon({"Unix": {"Address": f"@katzentwist-g-{os.getpid()}"}}) as daemon:
            name = daemon.log().rpartition("connected to gateway ")[2].split()[0]
            child = side.live.child(name)
            child.process.terminate()  # kill -9 would cost its mix keys, and so the rest of the epoch
            child.process.wait()
            side.live.children._children.remove(child)
            wait_for("the loss", lambda: "WARN client: not connected" in daemon.log())
            side.live.children._children.append(side.live.children._start(child.node))
            wait_for("the new session", lambda: daemon.log().count("NOTI client: connected to gateway") > 1)
            side.live.wait_ready()
            done = cli("ping", "--thin", str(daemon.thin), "-n", "2", timeout=120)
            self.assertIn("(2/2)", done.stdout, done.stderr)
