"""Applications that use katzenpost-thinclient 0.0.25, unmodified, in processes of their own."""

from __future__ import annotations

import contextlib
import json
import subprocess
import threading
from typing import Any

from twisted.trial.unittest import SkipTest

from tests.e2e.clientside import Daemon, published_python, run_script
from tests.e2e.processes import environment, wait_for

EVERYTHING = """
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
    full = b"f" * g.UserForwardPayloadLength
    out["full"] = (await c.blocking_send_message(full, node, queue, 60)).startswith(full)
    try:
        await c.blocking_send_message(full + b"f", node, queue, 1)
    except Exception as e:
        out["overdue"] = type(e).__name__
    out["choice"] = sorted({c.get_service("echo").mix_descriptor["Name"] for _ in range(200)})
    try:
        c.get_service("nothing")
    except Exception as e:
        out["nothing"] = str(e)
    out["sent"].clear()
    big, unknown = c.new_surb_id(), c.new_surb_id()
    await c.send_message(big, b"x" * 2001, node, queue)
    await c.send_message(unknown, b"x" * 2000, bytes(32), queue)
    await c.send_message_without_reply(b"one way", *c.get_service("record").to_destination())
    await c.send_message(c.new_surb_id(), b"behind it, so that it has left when this is said to be sent", node, queue)
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

PIGEONHOLE = """
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
        "start_resending_encrypted_message": lambda: c.start_resending_encrypted_message(
            b"r", None, b"i", 0, b"d", b"c", bytes(32)),
        "create_courier_envelopes_from_payload": lambda: c.create_courier_envelopes_from_payload(
            b"p", b"w", b"i", True, True),
        "create_courier_envelopes_from_multi_payload": lambda: c.create_courier_envelopes_from_multi_payload(
            [{"payload": b"p", "write_cap": b"w", "start_index": b"i"}], True, True),
        "create_courier_envelopes_from_tombstone_range": lambda: c.create_courier_envelopes_from_tombstone_range(
            b"w", b"i", 1, True, True),
        "voucher_mint": lambda: c.voucher_mint(b"w", "name"),
        "voucher_induct": lambda: c.voucher_induct(b"v", b"p", b"r"),
        "voucher_open": lambda: c.voucher_open(b"k", b"s", b"w"),
        "voucher_derive_stream": lambda: c.voucher_derive_stream(b"v"),
    }
    out = {}
    for name, call in calls.items():
        try:
            await asyncio.wait_for(call(), 30)
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

RESUME = """
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
    for attempt in range(5):  # a machine under load may deliver the reply together with the sent event
        sent.clear()
        out["replies"].clear()
        await c.send_message(c.new_surb_id(), b"meanwhile", node, queue)
        await asyncio.wait_for(sent.wait(), 60)
        out["before"] = list(out["replies"])
        c.socket.shutdown(2)  # the library connects again by itself, with the same token
        for _ in range(600):
            await asyncio.sleep(0.1)
            if out["replies"] and c.is_connected():
                break
        if not out["before"]:
            break
    c.stop()
    await asyncio.sleep(0.1)
asyncio.run(main())
print(json.dumps(out))
"""

EPOCHS = """
import asyncio, cbor2, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
out = {"events": [], "held": [], "echoes": 0, "failed": []}
async def doc(e):
    out["events"].append(cbor2.loads(e["payload"])["Epoch"])
    out["held"].append(c.pki_document()["Epoch"])
async def main():
    global c
    c = ThinClient(Config(sys.argv[1], on_new_pki_document=doc))
    await c.start(asyncio.get_running_loop())
    node, queue = c.get_service("echo").to_destination()
    while len(out["events"]) < 4 and not out["failed"]:
        text = str(out["echoes"])
        try:
            reply = await c.blocking_send_message(text.encode(), node, queue, 20)
            out["echoes"] += reply.rstrip(b"\\0").decode() == text
        except Exception as e:
            out["failed"].append(repr(e))
        await asyncio.sleep(0.1)
    c.stop()
    await asyncio.sleep(0.1)
asyncio.run(main())
print(json.dumps(out))
"""

MANY = """
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

WATCH = """
import asyncio, json, sys
from katzenpost_thinclient import Config, ThinClient
import logging; logging.disable(logging.CRITICAL)
def say(**facts): print(json.dumps(facts), flush=True)
async def status(e): say(connected=e["is_connected"], instance=e["instance_token"].hex())
async def gone(e): say(graceful=e["is_graceful"])
async def main():
    loop = asyncio.get_running_loop()
    c = ThinClient(Config(sys.argv[1], on_connection_status=status, on_daemon_disconnected=gone))
    await c.start(loop)
    node, queue = c.get_service("echo").to_destination()
    while line := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        try:
            reply = await c.blocking_send_message(line.encode(), node, queue, 60)
            say(echo=reply.rstrip(b"\\0").decode())
        except Exception as e:
            say(error=type(e).__name__)
    c.stop()
    await asyncio.sleep(0.1)
asyncio.run(main())
"""


def python() -> str:
    """A Python that has the library."""
    found = published_python()
    if found is None:
        raise SkipTest("katzenpost-thinclient 0.0.25 can not be installed here (no PyPI?)")
    return found


def run(script: str, daemon: Daemon) -> Any:
    """What a script with the published library printed."""
    done = run_script(python(), script, str(daemon.thin), timeout=150)
    if done.returncode:
        raise AssertionError(done.stdout + done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


class Watcher:
    """An application that says what happens to it, and echoes on demand; a context manager.

    :ivar said: what it said, in order.
    """

    def __init__(self, daemon: Daemon) -> None:
        self.said: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [python(), "-c", WATCH, str(daemon.thin)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said.append(json.loads(line))

    def all(self, name: str) -> list[Any]:
        """What it said under this name."""
        return [facts[name] for facts in self.said if name in facts]

    def ask(self, text: str) -> dict[str, Any]:
        """Echo *text*; what became of it."""
        assert self._process.stdin is not None
        before = len(self.all("echo") + self.all("error"))
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()
        wait_for("the outcome of an echo", lambda: len(self.all("echo") + self.all("error")) > before, 90)
        return next(facts for facts in reversed(self.said) if "echo" in facts or "error" in facts)

    def __enter__(self) -> Watcher:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        self._thread.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
