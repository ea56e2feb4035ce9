"""Counters under upstream's names, and their Prometheus text (spec: node 10).

One :class:`Metrics` belongs to one process. Counting is a dictionary update; nothing here locks, since only the reactor
thread counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import attrs

PREFIX: Final = "katzenpost_"

COUNTERS: Final = {
    "incoming_requests_total": "Commands received",
    "outgoing_connections_total": "Transport connections made to nodes",
    "cancelled_outgoing_connections_total": "Outgoing connections ended by shutdown",
    "sphinx_unwraps_total": "Successful unwraps",
    "replayed_packets_total": "Replays",
    "dropped_packets_total": "All dropped packets",
    "dropped_reason_total": "Dropped packets by reason",
    "dropped_outgoing_packets_total": "Packets dropped on the way out",
    "dropped_invalid_packets_total": "Invalid packets dropped",
    "dropped_deadline_blown_packets_total": "Packets dropped because they were late",
    "dropped_rate_limit_total": "Packets of clients over their rate",
    "kaetzchen_mix_packets_dropped_total": "Packets dropped in the scheduler",
    "kaetzchen_requests_total": "Requests to services",
    "kaetzchen_dropped_packets_total": "Requests dropped because they waited too long",
    "kaetzchen_dropped_requests_total": "Requests dropped as unusable",
    "kaetzchen_failed_requests_total": "Requests that a service failed to handle",
    "documents_ignored_total": "Documents ignored by the decoy source",
    "pki_docs_per_epoch_total": "Documents taken by the decoy source",
    "fetched_pki_docs_per_epoch_total": "Documents fetched",
    "failed_fetch_pki_docs_per_epoch_total": "Failed fetches of documents",
    "failed_pki_cache_generation_per_epoch_total": "Documents that are unusable for this node",
    "invalid_pki_cache_per_epoch_total": "Documents of the wrong epoch",
    "handshake_failures_total": "Failed link handshakes",
    "incoming_peer_validation_failures_total": "Peers refused after the handshake",
    "incoming_refused_no_pki_doc_total": "Connections refused for lack of a document",
    "incoming_refused_too_many_total": "Connections refused because there are as many links as open files allow",
    "outgoing_dial_failures_total": "Failed dials",
    "document_requests_refused_total": "Clients cut off because they asked for documents and did not read them",
    "plugin_restarts_total": "Plugin processes started again",
    "plugin_requests_forgotten_total": "Requests whose answer is dropped because a plugin has too many of them",
    "decoy_loops_sent_total": "Loop decoys sent",
    "decoy_loops_completed_total": "Loop decoys that came back",
    "decoy_loops_lost_total": "Loop decoys that did not come back in time",
    "decoy_loops_left_out_total": "Loop decoys that were not sent because too many were being made",
}
SUMMARIES: Final = {
    "ingress_queue_size": "Waiting entries hint at each push to a client",
    "mix_queue_size": "Delayed packets, at each batch that joins them",
    "kaetzchen_requests_duration_seconds": "Time that services took",
    "fetched_pki_docs_per_epoch_duration": "Time that document fetches took",
}
AUTHORITY_COUNTERS: Final = {
    "authority_requests_total": "Requests to the authority, by request and answer",
    "handshake_failures_total": COUNTERS["handshake_failures_total"],
}
HISTOGRAM: Final = "handshake_duration_seconds"
BUCKETS: Final = tuple(0.05 * 2**k for k in range(12))

Labels = tuple[tuple[str, str], ...]


@attrs.define(eq=False)
class Series:
    """One counter. Who counts often keeps it, and adds to *amount* itself."""

    amount: int = 0


@attrs.define
class _Histogram:
    counts: list[int] = attrs.field(factory=lambda: [0] * len(BUCKETS))
    total: float = 0.0
    observations: int = 0


@attrs.define
class Metrics:
    """All numbers of one process, or (:meth:`labelled`) a view of them that puts labels to everything it counts.

    :param described: counters by name with their meaning; they are shown even before they count anything.
    :param described_summaries: the same for summaries.
    """

    described: Mapping[str, str] = COUNTERS
    described_summaries: Mapping[str, str] = SUMMARIES
    _counters: dict[tuple[str, Labels], Series] = attrs.field(factory=dict)
    _summaries: dict[tuple[str, Labels], list[float]] = attrs.field(factory=dict)
    _gauges: dict[tuple[str, Labels], Callable[[], float]] = attrs.field(factory=dict)
    _handshakes: dict[Labels, _Histogram] = attrs.field(factory=dict)
    _labels: Labels = ()

    def labelled(self, **labels: str) -> Metrics:
        """The same numbers, with *labels* at all series that are counted and observed through the result."""
        return attrs.evolve(self, labels=(*self._labels, *labels.items()))

    def count(self, name: str, amount: int = 1, **labels: str) -> None:
        """Add to the counter *name* (without prefix)."""
        self.series(name, **labels).amount += amount

    def series(self, name: str, **labels: str) -> Series:
        """One series of the counter *name*; it is shown from now on."""
        key = self._key(name, labels)
        found = self._counters.get(key)
        if found is None:
            found = self._counters[key] = Series()
        return found

    def value(self, name: str, **labels: str) -> int:
        """The value of one counter series."""
        found = self._counters.get(self._key(name, labels))
        return 0 if found is None else found.amount

    def _key(self, name: str, labels: Mapping[str, str]) -> tuple[str, Labels]:
        return name, (*labels.items(), *self._labels)

    @property
    def counters(self) -> dict[tuple[str, Labels], int]:
        """The values of all series of counters."""
        return {key: series.amount for key, series in self._counters.items()}

    def observe(self, name: str, value: float) -> None:
        """Feed a summary."""
        entry = self._summaries.setdefault((name, self._labels), [0.0, 0])
        entry[0] += value
        entry[1] += 1

    def handshake(self, direction: str, seconds: float, failed_at: str = "") -> None:
        """A link handshake ended.

        :param direction: ``incoming`` or ``outgoing``.
        :param failed_at: its stage if it failed, by the names of node 10.
        """
        if failed_at:
            self.count("handshake_failures_total", direction=direction, state=failed_at)
        labels = (("direction", direction), ("result", "failure" if failed_at else "success"), *self._labels)
        histogram = self._handshakes.setdefault(labels, _Histogram())
        for i, bound in enumerate(BUCKETS):
            if seconds <= bound:
                histogram.counts[i] += 1
        histogram.total += seconds
        histogram.observations += 1

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """Register a gauge that is read when asked for."""
        self._gauges[self._key(name, labels)] = read

    def forget_epochs(self, before: int) -> None:
        """Delete the series of epochs before this one: their number would only grow."""
        for series in [key for key in self._counters if any(k == "epoch" and int(v) < before for k, v in key[1])]:
            del self._counters[series]

    def render(self) -> str:
        """The Prometheus text format, version 0.0.4."""
        out: list[str] = []
        series: dict[str, list[tuple[Labels, float]]] = {name: [] for name in self.described}
        for (name, labels), count in sorted(self.counters.items()):
            series.setdefault(name, []).append((labels, count))
        for name, rows in series.items():
            _header(out, name, self.described.get(name, name), "counter")
            out.extend(f"{PREFIX}{name}{_labels(labels)} {value}" for labels, value in rows)
            if not rows and not name.endswith(("reason_total", "per_epoch_total", "requests_total")):
                out.append(f"{PREFIX}{name} 0")
        for name, doc in self.described_summaries.items():
            _header(out, name, doc, "summary")
            found = {labels: entry for (n, labels), entry in sorted(self._summaries.items()) if n == name}
            for labels, (total, observations) in (found or {(): [0.0, 0.0]}).items():
                out.append(f"{PREFIX}{name}_sum{_labels(labels)} {total}")
                out.append(f"{PREFIX}{name}_count{_labels(labels)} {int(observations)}")
        for name in dict.fromkeys(n for n, _ in self._gauges):
            _header(out, name, name.replace("_", " "), "gauge")
            rows = [(labels, read()) for (n, labels), read in self._gauges.items() if n == name]
            out.extend(f"{PREFIX}{name}{_labels(labels)} {value}" for labels, value in rows)
        if self._handshakes:
            _header(out, HISTOGRAM, "Duration of link handshakes", "histogram")
        for labels, histogram in sorted(self._handshakes.items()):
            out.extend(_histogram_lines(labels, histogram))
        return "\n".join(out) + "\n"


def _header(out: list[str], name: str, doc: str, kind: str) -> None:
    out += [f"# HELP {PREFIX}{name} {doc}", f"# TYPE {PREFIX}{name} {kind}"]


def _labels(labels: Iterable[tuple[str, str]]) -> str:
    inner = ",".join(f'{k}="{_escaped(v)}"' for k, v in labels)
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram_lines(labels: Labels, histogram: _Histogram) -> list[str]:
    rows = [
        f"{PREFIX}{HISTOGRAM}_bucket{_labels((*labels, ('le', str(bound))))} {count}"
        for bound, count in zip((*BUCKETS, "+Inf"), (*histogram.counts, histogram.observations), strict=True)
    ]
    tail = _labels(labels)
    return [
        *rows,
        f"{PREFIX}{HISTOGRAM}_sum{tail} {histogram.total}",
        f"{PREFIX}{HISTOGRAM}_count{tail} {histogram.observations}",
    ]
