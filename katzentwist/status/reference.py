"""docs/metrics.md, made from the declarations: ``python -m katzentwist.status.reference > docs/metrics.md``."""

from __future__ import annotations

import sys
from typing import Final

from katzentwist.status.metrics import AUTHORITY_COUNTERS, BUCKETS, COUNTERS, HISTOGRAM, PREFIX, SUMMARIES

HEAD: Final = """# Metrics

A node or authority with `MetricsAddress` in `[Server]` serves `http://<MetricsAddress>/metrics` in the Prometheus text
format, and nothing else. Names are upstream's where upstream has the number. `contrib/grafana/katzentwist.json` is a
dashboard.

At a Provider, what belongs to one of its two halves has the label `half` too: `gateway` or `service`. What they share
(services, clients, databases, the PKI) has not. Series with an epoch disappear 10 epochs later.

This page is made from the code: `python -m katzentwist.status.reference > docs/metrics.md`.
"""
LABELS: Final = {
    "incoming_requests_total": "command",
    "dropped_reason_total": "reason",
    "pki_docs_per_epoch_total": "epoch",
    "fetched_pki_docs_per_epoch_total": "epoch",
    "failed_fetch_pki_docs_per_epoch_total": "epoch",
    "failed_pki_cache_generation_per_epoch_total": "epoch",
    "invalid_pki_cache_per_epoch_total": "epoch",
    "handshake_failures_total": "direction, state",
    "incoming_peer_validation_failures_total": "reason",
    "outgoing_dial_failures_total": "reason",
    "authority_requests_total": "request, status",
}
GAUGES: Final = {
    "channel_usage": ("channel_name", "Packets that wait for a Sphinx worker (`cryptoworker_incoming`)"),
    "delayed_packets": ("", "Packets that wait for their time, in memory and on disk"),
    "outgoing_links": ("state", "Links to the next layer that are `up`, and those that are `down`"),
    "incoming_links": ("", "Accepted connections"),
    "replay_tags": ("", "Packets whose tags are remembered, of all mix keys"),
    "clients": ("", "Connected clients"),
    "plugin_processes": ("capability", "Connected processes of a plugin service"),
    "server_selfcheck_sphinx_ops_per_sec_solo": ("", "Packets that one thread unwrapped per second at the start"),
    "server_selfcheck_sphinx_ops_per_sec_saturated": ("", "Packets that all CPUs unwrapped per second at the start"),
    "server_selfcheck_num_cpu": ("", "CPUs that the start found"),
}
AUTHORITY_GAUGES: Final = {
    "authority_members": ("", "Identities in the white list"),
    "authority_missing_uploads": ("", "Nodes whose descriptor for the next epoch has not come yet"),
    "authority_has_document": ("", "1 if the current epoch has a document"),
    "authority_connections": ("", "Open connections"),
    "authority_waiting_requests": ("", "Uploads that are being looked at, and requests for documents that wait"),
    "authority_evicted_connections": ("", "Connections that were ended to make room for others"),
}
PROCESS: Final = {
    "process_cpu_seconds_total": "CPU seconds of the process",
    "process_resident_memory_bytes": "Resident memory",
    "process_start_time_seconds": "Unix time of the start",
}


def render() -> str:
    """The page."""
    out = [HEAD, "## Counters", "", "| Series | Labels | Counts |", "|---|---|---|"]
    out += [_row(name, LABELS.get(name, ""), text) for name, text in COUNTERS.items()]
    out += ["", "Reasons of drops are those of the drop table in the specification (node 4.11).", ""]
    out += ["## Gauges", "", "| Series | Labels | Shows |", "|---|---|---|"]
    out += [_row(name, labels, text) for name, (labels, text) in GAUGES.items()]
    out += ["", "## Summaries (`_sum`, `_count`) and the histogram", "", "| Series | Labels | Shows |", "|---|---|---|"]
    out += [_row(name, "", text) for name, text in SUMMARIES.items()]
    bounds = ", ".join(f"{bound:g}" for bound in BUCKETS)
    out += [_row(HISTOGRAM, "direction, result", f"Seconds of link handshakes; buckets {bounds}")]
    out += ["", "## The authority", "", "It shows these, the handshakes and the process.", ""]
    out += ["| Series | Labels | Shows |", "|---|---|---|"]
    out += [_row(name, LABELS.get(name, ""), text) for name, text in AUTHORITY_COUNTERS.items() if name not in COUNTERS]
    out += [_row(name, labels, text) for name, (labels, text) in AUTHORITY_GAUGES.items()]
    out += ["", "## The process", "", "| Series | Shows |", "|---|---|"]
    out += [f"| `{name}` | {text} |" for name, text in PROCESS.items()]
    return "\n".join(out) + "\n"


def _row(name: str, labels: str, text: str) -> str:
    return f"| `{PREFIX}{name}` | {labels} | {text} |"


if __name__ == "__main__":
    sys.stdout.write(render())
