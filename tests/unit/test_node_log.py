"""The log, the metrics page's text, and the messages to systemd."""

from __future__ import annotations

import io
import json
import socket
from pathlib import Path
from types import SimpleNamespace

from twisted.internet.task import Clock
from twisted.logger import Logger
from twisted.trial.unittest import SynchronousTestCase

from katzentwist.config.common import Logging
from katzentwist.logger import ModuleLogger, notice
from katzentwist.node.logging import LogFile
from katzentwist.node.notify import Notifier
from katzentwist.status.metrics import Metrics

LINE = r"^\d\d:\d\d:\d\d\.\d{3} (ERRO|WARN|NOTI|INFO|DEBU) server: "


def settings(level: str = "NOTICE", file: str = "", json: bool = False, disable: bool = False) -> Logging:
    """Logging settings."""
    return Logging(disable=disable, file=file, level=level, json=json)


class LineTests(SynchronousTestCase):
    """node 1.5."""

    def written(self, chosen: Logging) -> str:
        """What five events of five levels leave."""
        out = io.StringIO()
        observer = LogFile(chosen, out)
        log = ModuleLogger("server", observer=observer)
        log.debug("one {x}", x=1)
        log.info("two")
        notice(log, "three")
        log.warn("four")
        log.error("five")
        return out.getvalue()

    def test_format(self) -> None:
        """HH:MM:SS.mmm LEVL module: message."""
        lines = self.written(settings("DEBUG")).splitlines()
        self.assertEqual([line[13:17] for line in lines], ["DEBU", "INFO", "NOTI", "WARN", "ERRO"])
        for line in lines:
            self.assertRegex(line, LINE)
        self.assertTrue(lines[0].endswith("one 1"))

    def test_levels(self) -> None:
        """Each level shows itself and what is more urgent."""
        counts = [
            len(self.written(settings(level)).splitlines()) for level in ("ERROR", "WARNING", "NOTICE", "INFO", "DEBUG")
        ]
        self.assertEqual(counts, [1, 2, 3, 4, 5])

    def test_half(self) -> None:
        """Objects of one half of a Provider name it behind their module; others do not."""

        out = io.StringIO()

        class Sender:
            log = ModuleLogger("outgoing", observer=LogFile(settings(), out))

            def __init__(self, half: str) -> None:
                self._runtime = SimpleNamespace(half=half)

        for half in ("gateway", "service", ""):
            Sender(half).log.warn("can not connect")
        Sender.log.warn("can not connect")
        modules = [line[18:].split(":")[0] for line in out.getvalue().splitlines()]
        self.assertEqual(modules, ["outgoing/gateway", "outgoing/service", "outgoing", "outgoing"])

    def test_json(self) -> None:
        """One JSON object per line."""
        first = json.loads(self.written(settings("DEBUG", json=True)).splitlines()[0])
        self.assertEqual((first["level"], first["module"], first["message"]), ("DEBUG", "server", "one 1"))

    def test_disable(self) -> None:
        """Nothing at all."""
        self.assertEqual(self.written(settings("DEBUG", disable=True)), "")

    def test_chatter_of_twisted(self) -> None:
        """Twisted's own info events count as DEBUG."""
        out = io.StringIO()
        Logger(namespace="twisted.internet", observer=LogFile(settings("INFO"), out)).info("noise")
        self.assertEqual(out.getvalue(), "")


class FileTests(SynchronousTestCase):
    """node 1.6."""

    def test_reopen(self) -> None:
        """After each move and reopening a new file is at the configured place; the old one grows no more."""
        path = Path(self.mktemp())
        observer = LogFile(settings(file=str(path)))
        self.addCleanup(observer.close)
        log = ModuleLogger("server", observer=observer)
        for turn in range(3):
            log.warn("turn {n}", n=turn)
            path.rename(f"{path}.{turn}")
            observer.reopen()
            self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        for turn in range(3):
            self.assertIn(f"turn {turn}", Path(f"{path}.{turn}").read_text())
            self.assertEqual(len(Path(f"{path}.{turn}").read_text().splitlines()), 1)

    def test_standard_output_survives_reopening(self) -> None:
        """SIGHUP is harmless without a file."""
        out = io.StringIO()
        observer = LogFile(settings(), out)
        observer.reopen()
        ModuleLogger("server", observer=observer).warn("still here")
        self.assertIn("still here", out.getvalue())

    def test_reopen_on_a_full_disk(self) -> None:
        """Lines that the old file has not taken do not end the program when the log is rotated to make room."""
        folder = Path(self.mktemp())
        folder.mkdir()
        path = folder / "log"
        path.symlink_to("/dev/full")
        observer = LogFile(settings(file=str(path)))
        log = ModuleLogger("server", observer=observer)
        log.error("lost")
        path.unlink()
        observer.reopen()
        log.error("kept")
        observer.close()
        self.assertTrue(path.read_text().endswith("kept\n"))

    def test_full_disk(self) -> None:
        """A line that can not be written is lost; the daemon goes on."""

        class Full(io.StringIO):
            def write(self, text: str) -> int:
                raise OSError(28, "No space left on device")

        ModuleLogger("server", observer=LogFile(settings(), Full())).warn("lost")


class NotifyTests(SynchronousTestCase):
    """systemd's protocol."""

    def test_messages(self) -> None:
        """READY, WATCHDOG twice per period, STOPPING."""
        path = "\0katzentwist-test-notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            server.settimeout(5)
            made = Notifier.from_environment({"NOTIFY_SOCKET": "@" + path[1:], "WATCHDOG_USEC": "4000000"})
            clock = Clock()
            made.ready()
            made.keep_alive(clock)
            clock.pump([1.0] * 4)
            made.stopping()
            got = [server.recv(100) for _ in range(5)]
        self.assertEqual(got, [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1", b"STOPPING=1"])

    def test_without_systemd(self) -> None:
        """Nothing happens."""
        made = Notifier.from_environment({})
        made.ready()
        made.keep_alive(None)
        made.stopping()


class MetricsTests(SynchronousTestCase):
    """node 10."""

    def test_text(self) -> None:
        """Counters with labels, summaries, gauges and the histogram of handshakes."""
        made = Metrics()
        made.count("incoming_requests_total", 3, command="*commands.NoOp")
        made.count("sphinx_unwraps_total", 7)
        made.observe("ingress_queue_size", 1.0)
        made.gauge("clients", lambda: 5)
        made.handshake("incoming", 0.06)
        text = made.render()
        for line in (
            'katzenpost_incoming_requests_total{command="*commands.NoOp"} 3',
            "katzenpost_sphinx_unwraps_total 7",
            "katzenpost_ingress_queue_size_count 1",
            "katzenpost_clients 5",
            'katzenpost_handshake_duration_seconds_bucket{direction="incoming",result="success",le="0.05"} 0',
            'katzenpost_handshake_duration_seconds_bucket{direction="incoming",result="success",le="0.1"} 1',
            'katzenpost_handshake_duration_seconds_bucket{direction="incoming",result="success",le="+Inf"} 1',
        ):
            self.assertIn(line + "\n", text)

    def test_views(self) -> None:
        """What is counted through a view has its labels, beside what has none."""
        made = Metrics()
        half = made.labelled(half="gateway")
        made.count("sphinx_unwraps_total", 1)
        half.count("sphinx_unwraps_total", 2)
        half.count("dropped_reason_total", 3, reason="x")
        half.gauge("delayed_packets", lambda: 4)
        half.observe("mix_queue_size", 5.0)
        half.handshake("outgoing", 200.0, "message_2_receive")
        self.assertEqual((made.value("sphinx_unwraps_total"), half.value("sphinx_unwraps_total")), (1, 2))
        text = made.render()
        for line in (
            "katzenpost_sphinx_unwraps_total 1",
            'katzenpost_sphinx_unwraps_total{half="gateway"} 2',
            'katzenpost_dropped_reason_total{reason="x",half="gateway"} 3',
            'katzenpost_delayed_packets{half="gateway"} 4',
            'katzenpost_mix_queue_size_sum{half="gateway"} 5.0',
            'katzenpost_handshake_failures_total{direction="outgoing",state="message_2_receive",half="gateway"} 1',
            'katzenpost_handshake_duration_seconds_count{direction="outgoing",result="failure",half="gateway"} 1',
        ):
            self.assertIn(line + "\n", text)

    def test_old_epochs(self) -> None:
        """Series of past epochs do not pile up."""
        made = Metrics()
        for epoch in range(100, 200):
            made.count("fetched_pki_docs_per_epoch_total", epoch=str(epoch))
        made.count("sphinx_unwraps_total")
        made.forget_epochs(190)
        self.assertEqual(len(made.counters), 11)
        self.assertEqual(made.value("fetched_pki_docs_per_epoch_total", epoch="190"), 1)

    def test_labels_are_escaped(self) -> None:
        """A quote in a label does not break the format."""
        made = Metrics()
        made.count("dropped_reason_total", reason='a"b\n')
        self.assertIn('reason="a\\"b\\n"', made.render())
