"""The metrics page: ``/metrics`` in Prometheus text format, everything else 404 (spec: node 10)."""

from __future__ import annotations

import resource as os_resource
import time
from typing import Any

from twisted.internet.defer import maybeDeferred
from twisted.internet.endpoints import TCP4ServerEndpoint, TCP6ServerEndpoint
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IListeningPort
from twisted.web.resource import Resource
from twisted.web.server import Request, Site

from katzentwist.errors import ConfigError
from katzentwist.logger import ModuleLogger, notice
from katzentwist.status.metrics import Metrics

CONTENT_TYPE = b"text/plain; version=0.0.4; charset=utf-8"


class MetricsPage(Resource):
    """The page."""

    isLeaf = True

    def __init__(self, metrics: Metrics) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._metrics = metrics
        self._started = time.time()

    def render_GET(self, request: Request) -> bytes:
        """All series, and those of the process itself."""
        request.setHeader(b"content-type", CONTENT_TYPE)
        return (self._metrics.render() + self._process()).encode()

    def _process(self) -> str:
        usage = os_resource.getrusage(os_resource.RUSAGE_SELF)
        rows = (
            ("process_cpu_seconds_total", "counter", usage.ru_utime + usage.ru_stime),
            ("process_resident_memory_bytes", "gauge", _resident()),
            ("process_start_time_seconds", "gauge", self._started),
        )
        return "".join(f"# TYPE {name} {kind}\n{name} {value}\n" for name, kind, value in rows)


def _resident() -> int:
    """Resident memory of this process in bytes; 0 where /proc is not there."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - a pseudo file
            return int(file.read().split()[1]) * os_resource.getpagesize()
    except (OSError, ValueError, IndexError):
        return 0


class MetricsServer:
    """Listens on the configured address."""

    log = ModuleLogger("instrument")

    def __init__(self, reactor: Any, address: tuple[str, int], metrics: Metrics) -> None:
        self._reactor, self._address = reactor, address
        root = Resource()
        root.putChild(b"metrics", MetricsPage(metrics))
        # No access log: a look at the metrics is nothing to write down.
        self._site = Site(root, logPath=None, reactor=reactor)
        self._site.noisy = False
        self._site.log = lambda request: None  # type: ignore[method-assign]
        self._port: IListeningPort | None = None

    async def start(self) -> None:
        """Bind.

        :raises ConfigError: the address can not be listened on.
        """
        host, port = self._address
        endpoint: Any = (TCP6ServerEndpoint if ":" in host else TCP4ServerEndpoint)(self._reactor, port, interface=host)
        try:
            self._port = await endpoint.listen(self._site)
        except CannotListenError as e:
            raise ConfigError(f"can not listen on {host}:{port}: {e.socketError}", "Server.MetricsAddress") from e
        notice(self.log, "metrics on http://{host}:{port}/metrics", host=host, port=port)

    async def stop(self) -> None:
        """Close."""
        port, self._port = self._port, None
        if port is not None:
            await maybeDeferred(port.stopListening)
