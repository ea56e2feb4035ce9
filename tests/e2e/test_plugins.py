"""Plugin processes, real ones, under a registry of services (node 7.7 to 7.9, provider 10.4)."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import globalLogPublisher
from twisted.trial.unittest import TestCase

from katzentwist.clock import SystemClock
from katzentwist.config.services import Service
from katzentwist.errors import PluginError
from katzentwist.plugins import process as process_module
from katzentwist.plugins.builtin.echo import Echo
from katzentwist.plugins.inprocess import InProcess
from katzentwist.plugins.registry import Registry, Request
from katzentwist.plugins.supervisor import PluginService, Surroundings
from katzentwist.sphinx import recipient_id
from katzentwist.status.metrics import Metrics

ROOT = Path(__file__).parent.parent.parent
EXAMPLES = ROOT / "examples"
BAD = Path(__file__).parent / "badplugin.py"
SIZE = 2000
SURB = b"s" * 572


class Rig:
    """Services with all that they need, and what came of requests."""

    def __init__(self, folder: Path, *services: Service, patience: float = 5.0) -> None:
        self.metrics = Metrics()
        self.clock = SystemClock()
        self.drops: Counter[str] = Counter()
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        around = Surroundings(
            reactor=reactor,
            clock=self.clock,
            metrics=self.metrics,
            patience=patience,
            period=60.0,
            response_size=SIZE,
            environment={
                **os.environ,
                "PATH": path,
                "PYTHONPATH": str(ROOT),
                "NOTIFY_SOCKET": "/x",
                "TMPDIR": str(folder),
            },
        )

        def make(service: Service) -> Any:
            if service.command:
                return PluginService(service, around, lambda alive: self.registry.set_alive(service.capability, alive))
            return InProcess(Echo(), self.metrics, 3, patience, self.clock.monotonic)

        self.registry = Registry(services, make)

    def ask(self, endpoint: str, payload: bytes) -> Deferred[bytes]:
        """The reply; TimeoutError when none comes."""
        return self.tell(endpoint, payload).addTimeout(8.0, reactor)

    def tell(self, endpoint: str, payload: bytes, surb: bool = True) -> Deferred[bytes]:
        """A request whose reply may never come."""
        reply: Deferred[bytes] = Deferred()
        now = self.clock.monotonic()

        def dropped(reason: Any) -> None:
            self.drops[reason.value] += 1

        service = self.registry.find(recipient_id(endpoint))
        if service is None:
            raise LookupError(endpoint)
        service.handle(
            Request(
                payload=payload.ljust(SIZE, b"\0"),
                surb=SURB if surb else None,
                arrived=now,
                began=now,
                delay=0.0,
                reply=lambda answer: None if reply.called else reply.callback(answer),
                dropped=dropped,
            )
        )
        return reply

    def processes(self, capability: str) -> list[Any]:
        """The running processes of a plugin."""
        service = self.registry._entries[capability].service
        return [worker.process for worker in service._workers if worker.process is not None]


def plugin(name: str, command: Path, number: int = 1, protocol: str = "auto", **config: str) -> Service:
    """A plugin entry."""
    return Service(
        capability=name,
        endpoint=f"+{name}",
        disable=False,
        config=config,
        command=str(command),
        max_concurrency=number,
        protocol=protocol,
    )


def bad(mode: str, number: int = 1, protocol: str = "auto", **config: str) -> Service:
    """One that misbehaves; its capability is the mode."""
    return plugin(mode, BAD, number, protocol, mode=mode, **config)


ECHO = Service(capability="echo", endpoint="+echo", disable=False, config={})


def exists(path: str) -> bool:
    """Whether a file is there."""
    return Path(path).exists()


def environment_of(pid: int) -> bytes:
    """The environment of a process."""
    return Path(f"/proc/{pid}/environ").read_bytes()


def sleep(seconds: float) -> Deferred[None]:
    """Let the reactor turn."""
    return deferLater(reactor, seconds)


async def until(true: Any, limit: float = 10.0) -> None:
    """Wait for a condition."""
    end = time.monotonic() + limit
    while not true():
        if time.monotonic() > end:
            raise AssertionError("waited in vain")
        await sleep(0.02)


class PluginCase(TestCase):
    """Runs rigs and ends them."""

    timeout = 60

    def setUp(self) -> None:
        """A folder for notes, and the log."""
        self.folder = Path(tempfile.mkdtemp(prefix="kt-plugins-"))
        self.note = self.folder / "note"
        self.rigs: list[Rig] = []
        self.events: list[dict[str, Any]] = []
        globalLogPublisher.addObserver(self.events.append)

    async def tearDown(self) -> None:
        """No process may stay."""
        globalLogPublisher.removeObserver(self.events.append)
        for rig in self.rigs:
            await rig.registry.stop()
        shutil.rmtree(self.folder)

    async def rig(self, *services: Service, patience: float = 5.0) -> Rig:
        """A started rig."""
        rig = Rig(self.folder, *services, patience=patience)
        self.rigs.append(rig)
        await rig.registry.start()
        return rig

    def notes(self) -> list[str]:
        """What plugins wrote down."""
        return self.note.read_text().splitlines() if self.note.exists() else []

    def logged(self, level: str = "debug") -> str:
        """The log records of a level."""
        from twisted.logger import formatEvent

        return "\n".join(formatEvent(e) for e in self.events if e["log_level"].name == level)


class ExampleTests(PluginCase):
    """The programs of examples/, as they are."""

    async def test_counter(self) -> None:
        """The helper, a plain handle, its configuration as arguments."""
        rig = await self.rig(plugin("counter", EXAMPLES / "counter_service.py", greeting="hello"))
        self.assertEqual(await rig.ask("+counter", b"world"), b"hello 1 world")
        self.assertEqual(await rig.ask("+counter", b"again"), b"hello 2 again")
        self.assertEqual(rig.metrics.value("kaetzchen_requests_total"), 2)
        await until(lambda: "counting as process" in self.logged())

    async def test_notice_board(self) -> None:
        """The helper, an async handle."""
        rig = await self.rig(plugin("board", EXAMPLES / "notice_board_service.py", folder=str(self.folder / "b")))
        self.assertEqual(await rig.ask("+board", b"PUT cats first line"), b"OK")
        self.assertEqual(await rig.ask("+board", b"PUT cats second line"), b"OK")
        self.assertEqual(await rig.ask("+board", b"GET cats"), b"second line\nfirst line")

    async def test_plain(self) -> None:
        """No helper at all; many requests at once."""
        rig = await self.rig(plugin("plain", EXAMPLES / "plain_service.py"))
        replies = [rig.ask("+plain", f"request {i}".encode()) for i in range(50)]
        for i, reply in enumerate(replies):
            self.assertEqual(await reply, f"request {i}".encode()[::-1])

    async def test_helper_in_the_old_shape(self) -> None:
        """Under a node that speaks the old protocol the helper answers in it."""
        rig = await self.rig(plugin("counter", EXAMPLES / "counter_service.py", protocol="sync"))
        rig.tell("+counter", b"nobody listens", surb=False)
        replies = [rig.ask("+counter", b"x") for _ in range(5)]
        self.assertEqual([await r for r in replies], [f"number {i} x".encode() for i in range(2, 7)])

    async def test_nothing_stays(self) -> None:
        """A stopped plugin leaves no process and no socket."""
        rig = await self.rig(plugin("plain", EXAMPLES / "plain_service.py"))
        (process,) = rig.processes("plain")
        pid, path = process.pid, process._path
        await rig.registry.stop()
        self.assertFalse(exists(path))
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)


class OldShapeTests(PluginCase):
    """Request{ID, Payload, HasSURB}, Response{Payload}, strictly synchronous."""

    async def test_old_shape_plugin(self) -> None:
        """It works without being told, and never has two requests at once."""
        rig = await self.rig(bad("old", note=str(self.note), sleep="0.05"))
        replies = [rig.ask("+old", f"request {i}".encode()) for i in range(6)]
        rig.tell("+old", b"no reply", surb=False)
        last = rig.ask("+old", b"last")
        for i, reply in enumerate(replies):
            self.assertEqual((await reply).rstrip(b"\0"), f"request {i}".encode())
        self.assertEqual((await last).rstrip(b"\0"), b"last")
        self.assertNotIn("OVERLAP", self.notes())
        self.assertEqual(len(self.notes()), 8)
        self.assertTrue(all(f" {SIZE} " in line for line in self.notes()), "payloads come with their padding")
        self.assertFalse(rig.drops)

    async def test_max_concurrency(self) -> None:
        """So many processes share one queue."""
        rig = await self.rig(bad("old", number=3, note=str(self.note), sleep="0.4"))
        self.assertEqual(len({p.pid for p in rig.processes("old")}), 3)
        self.assertIn('katzenpost_plugin_processes{capability="old"} 3', rig.metrics.render())
        began = time.monotonic()
        for reply in [rig.ask("+old", b"x") for _ in range(6)]:
            await reply
        self.assertLess(time.monotonic() - began, 0.4 * 6 - 0.5)
        self.assertNotIn("OVERLAP", self.notes())

    async def test_out_of_step(self) -> None:
        """An old-shape plugin that lets its time pass is started again."""
        self.patch(sys.modules["katzentwist.plugins._core"], "PATIENCE", 0.3)
        rig = await self.rig(bad("old", protocol="sync", note=str(self.note), sleep="1"))
        pid = rig.processes("old")[0].pid
        rig.tell("+old", b"x")
        await until(lambda: rig.processes("old") and rig.processes("old")[0].pid not in (pid, None))
        self.assertIn("no answer within", self.logged("error"))


class StartTests(PluginCase):
    """From the first line to the connection."""

    async def test_late_socket(self) -> None:
        """The socket may come after the line."""
        rig = await self.rig(bad("late"))
        self.assertEqual((await rig.ask("+late", b"x"))[:1], b"x")

    async def fails(self, service: Service, words: str) -> None:
        """The start fails and says why."""
        with self.assertRaises(PluginError) as caught:
            await self.rig(ECHO, service)
        self.assertIn(words, str(caught.exception))
        self.assertIn(service.capability, str(caught.exception))

    async def test_missing_program(self) -> None:
        """Named."""
        await self.fails(plugin("x", Path("/nonexistent/program")), "no such program")

    async def test_error_line(self) -> None:
        """An error line of a process that ends is no path."""
        began = time.monotonic()
        await self.fails(bad("refuse"), "ended with status 1")
        self.assertLess(time.monotonic() - began, 5)

    async def test_silent(self) -> None:
        """No line in time."""
        self.patch(process_module, "LINE_LIMIT", 0.5)
        await self.fails(bad("silent"), "no line")

    async def test_endless_line(self) -> None:
        """A first line without an end."""
        await self.fails(bad("endless"), "does not end")

    async def test_no_socket(self) -> None:
        """A path that can not be dialled."""
        self.patch(process_module, "DIALS", 2)
        self.patch(process_module, "DIAL_PAUSE", 0.05)
        program = self.folder / "liar"
        program.write_text("#!/bin/sh\necho /nonexistent/socket\nexec sleep 100\n")
        program.chmod(0o700)
        await self.fails(plugin("liar", program), "can not connect")

    async def test_arguments(self) -> None:
        """Config becomes ``-key value``; the node's own environment stays with the node."""
        rig = await self.rig(bad("args", note=str(self.note), log_dir="/var/log/x y"))
        self.assertEqual(self.notes(), [str(["-mode", "args", "-note", str(self.note), "-log_dir", "/var/log/x y"])])
        self.assertEqual((await rig.ask("+args", b"x"))[:1], b"x")
        self.assertNotIn(b"NOTIFY_SOCKET", environment_of(rig.processes("args")[0].pid))

    async def test_stop_while_starting(self) -> None:
        """A node that is stopped while a plugin starts leaves no process."""
        rig = Rig(self.folder, bad("silent"))
        starting = Deferred.fromCoroutine(rig.registry.start())
        failed = self.assertFailure(starting, PluginError)
        await until(lambda: rig.registry._entries["silent"].service._workers)
        await sleep(0.2)
        await rig.registry.stop()
        await failed


class MisbehaviourTests(PluginCase):
    """Whatever a plugin does, echo on the same node goes on."""

    async def echo_goes_on(self, rig: Rig) -> float:
        """Longest of some echo requests."""
        longest = 0.0
        for _ in range(20):
            began = time.monotonic()
            self.assertEqual((await rig.ask("+echo", b"still here"))[:10], b"still here")
            longest = max(longest, time.monotonic() - began)
            await sleep(0.01)
        self.assertLess(longest, 0.5)
        return longest

    async def test_hang(self) -> None:
        """It hangs: its queue fills, late requests are dropped and counted, nobody else waits."""
        rig = await self.rig(ECHO, bad("hang", protocol="async"), patience=0.5)
        for _ in range(2500):
            rig.tell("+hang", b"x")
        await self.echo_goes_on(rig)
        await until(lambda: rig.drops["cbor_kaetzchen_dwell_exceeded"] > 1000)
        self.assertLess(len(rig.registry.find(recipient_id("+hang"))._waiting), 1001)

    async def test_flood(self) -> None:
        """100 MB of responses to nothing: the process is ended, and started again with a pause."""
        rig = await self.rig(ECHO, bad("flood", note=str(self.note)))
        await self.echo_goes_on(rig)
        await until(lambda: "responses to nothing" in self.logged("error"))
        self.assertNotIn("flooded", self.notes())
        self.assertIsNone(rig.registry.find(recipient_id("+flood")))

    async def test_announced_flood(self) -> None:
        """One response of 100 MB is not even received."""
        rig = await self.rig(ECHO, bad("announce"))
        await self.echo_goes_on(rig)
        await until(lambda: "more than 1048576 bytes" in self.logged("error"))

    async def test_garbage(self) -> None:
        """Something else than CBOR: an ERROR, and a new process."""
        rig = await self.rig(ECHO, bad("garbage"))
        await until(lambda: "not a message" in self.logged("error"))
        await self.echo_goes_on(rig)

    async def test_death_in_the_middle(self) -> None:
        """It dies over a request: it leaves dispatch and descriptor, and comes back."""
        rig = await self.rig(ECHO, bad("die"))
        pid = rig.processes("die")[0].pid
        rig.tell("+die", b"x")
        await until(lambda: rig.registry.find(recipient_id("+die")) is None)
        self.assertEqual(set(rig.registry.advertised()[0]), {"echo"})
        await self.echo_goes_on(rig)
        await until(lambda: rig.registry.find(recipient_id("+die")) is not None)
        self.assertNotEqual(rig.processes("die")[0].pid, pid)
        self.assertEqual(rig.metrics.value("plugin_restarts_total"), 1)
        self.assertEqual(set(rig.registry.advertised()[0]), {"echo", "die"})
        self.assertIn("signal 9", self.logged("error"))

    async def test_too_long(self) -> None:
        """A response that does not fit is dropped and counted; the service lives on, in both shapes."""
        rig = await self.rig(bad("long"), bad("long-old"))
        pid = rig.processes("long")[0].pid
        for _ in range(3):
            rig.tell("+long", b"x")
        rig.tell("+long-old", b"L")
        self.assertEqual(await rig.ask("+long-old", b"s"), b"short")
        await until(lambda: rig.drops["cbor_kaetzchen_response_too_long"] == 4)
        self.assertEqual(rig.processes("long")[0].pid, pid)

    async def test_own_surbs(self) -> None:
        """Responses are matched by ID in any order, names in any case, and a plugin's own SURB is not used."""
        rig = await self.rig(bad("reverse", protocol="async"))
        first, second = rig.ask("+reverse", b"first"), rig.ask("+reverse", b"secon")
        self.assertEqual((await first, await second), (b"first", b"secon"))

    async def test_standard_output(self) -> None:
        """What comes after the first line is not read, and disturbs nothing."""
        rig = await self.rig(bad("stdout"))
        self.assertEqual((await rig.ask("+stdout", b"x"))[:1], b"x")

    async def test_standard_error(self) -> None:
        """It is logged at DEBUG under the program's name, escaped."""
        rig = await self.rig(bad("chatty"))
        await rig.ask("+chatty", b"x")
        self.assertIn(r"to standard error \x1b[31mred\x1b[0m", self.logged())
        self.assertIn(str(BAD), {e["log_namespace"] for e in self.events})

    async def test_stubborn(self) -> None:
        """One that ignores SIGTERM is killed."""
        self.patch(process_module, "GRACE", 0.3)
        rig = await self.rig(bad("stubborn"))
        (process,) = rig.processes("stubborn")
        pid, path = process.pid, process._path
        await rig.registry.stop()
        self.assertRaises(ProcessLookupError, os.kill, pid, 0)
        self.assertFalse(exists(path))

    async def test_two_plugins(self) -> None:
        """Requests for an endpoint go to its plugin and to no other."""
        other = self.folder / "other"
        one, two = bad("log", note=str(self.note)), plugin("log2", BAD, mode="log", note=str(other))
        rig = await self.rig(one, two)
        self.assertEqual(await rig.ask("+log", b"x"), b"logged")
        self.assertEqual(len(self.notes()), 1)
        self.assertFalse(other.exists())


class CommandTests(PluginCase):
    """START and STOP while it runs (node 9)."""

    async def test_stop_and_start(self) -> None:
        """Out of dispatch and descriptor at once; back after the start."""
        rig = await self.rig(plugin("plain", EXAMPLES / "plain_service.py"))
        await rig.registry.stop_one("plain")
        self.assertIsNone(rig.registry.find(recipient_id("+plain")))
        self.assertEqual(rig.registry.advertised()[0], {})
        await self.assertFailure(rig.registry.stop_one("plain"), PluginError)
        await rig.registry.start_one("plain")
        self.assertEqual(await rig.ask("+plain", b"abc"), b"cba")
        await self.assertFailure(rig.registry.start_one("plain"), PluginError)

    async def test_start_of_a_dead_one(self) -> None:
        """START does not wait for the next attempt; STOP ends the attempts."""
        rig = await self.rig(plugin("plain", EXAMPLES / "plain_service.py"))
        os.kill(rig.processes("plain")[0].pid, signal.SIGKILL)
        await until(lambda: rig.registry.find(recipient_id("+plain")) is None)
        await rig.registry.start_one("plain")
        self.assertEqual(await rig.ask("+plain", b"abc"), b"cba")
        os.kill(rig.processes("plain")[0].pid, signal.SIGKILL)
        await until(lambda: rig.registry.find(recipient_id("+plain")) is None)
        await rig.registry.stop_one("plain")
        await sleep(1.2)
        self.assertEqual(rig.processes("plain"), [])

    async def test_disabled(self) -> None:
        """A disabled plugin is not run, and can not be started."""
        import attrs

        rig = await self.rig(attrs.evolve(plugin("plain", EXAMPLES / "plain_service.py"), disable=True))
        self.assertEqual(rig.registry.advertised()[0], {})
        await self.assertFailure(rig.registry.start_one("plain"), PluginError)


class ModeTests(PluginCase):
    """What the file system shows."""

    async def test_examples_are_executable(self) -> None:
        """They are run as they are."""
        for path in EXAMPLES.glob("*_service.py"):
            self.assertTrue(path.stat().st_mode & stat.S_IXUSR, path)
