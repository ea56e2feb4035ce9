"""The [Debug] table with its defaults filled in (spec: node 2.8, provider 1.6)."""

from __future__ import annotations

import math

import attrs

from katzentwist.config.nodetables import DebugTable


@attrs.frozen(kw_only=True)
class Debug:
    """Limits of the packet path; times in milliseconds. Worker counts and burst of 0 wait for :func:`with_runtime`."""

    num_sphinx_workers: int
    num_gateway_workers: int
    num_service_workers: int
    num_kaetzchen_workers: int
    external_queue: bool
    scheduler_queue_size: int
    scheduler_max_burst: int
    unwrap_delay: int
    gateway_delay: int
    service_delay: int
    kaetzchen_delay: int
    scheduler_slack: int
    send_slack: int
    decoy_slack: int
    connect_timeout: int
    handshake_timeout: int
    reauth_interval: int
    send_decoy_traffic: bool
    disable_rate_limit: bool
    generate_only: bool


def resolve_debug(table: DebugTable | None, older: bool) -> Debug:
    """Defaults by the shape of the file: *older* is that of a Provider."""
    t = table or DebugTable()

    def default(value: int, otherwise: int) -> int:
        return value if value > 0 else otherwise

    workers = (t.num_gateway_workers, t.num_service_workers)
    delays = (t.gateway_delay, t.service_delay)
    kaetzchen_workers = t.num_kaetzchen_workers
    burst = t.scheduler_max_burst
    if older:
        named = t.num_provider_workers
        workers = tuple(default(named, default(w, 1)) for w in workers)  # type: ignore[assignment]
        delays = tuple(default(t.provider_delay, d) for d in delays)  # type: ignore[assignment]
        kaetzchen_workers = default(kaetzchen_workers, 3)
        burst = default(burst, 16)
    return Debug(
        num_sphinx_workers=t.num_sphinx_workers,
        num_gateway_workers=workers[0],
        num_service_workers=workers[1],
        num_kaetzchen_workers=kaetzchen_workers,
        external_queue=t.external_queue,
        scheduler_queue_size=t.scheduler_queue_size,
        scheduler_max_burst=burst,
        unwrap_delay=default(t.unwrap_delay, 250),
        gateway_delay=default(delays[0], 500),
        service_delay=default(delays[1], 500),
        kaetzchen_delay=default(t.kaetzchen_delay, 750),
        scheduler_slack=max(t.scheduler_slack, 450),
        send_slack=max(t.send_slack, 50),
        decoy_slack=default(t.decoy_slack, 15000),
        connect_timeout=default(t.connect_timeout, 60000),
        handshake_timeout=default(t.handshake_timeout, 30000 if older else 3000),
        reauth_interval=default(t.reauth_interval, 30000),
        send_decoy_traffic=t.send_decoy_traffic,
        disable_rate_limit=t.disable_rate_limit,
        generate_only=t.generate_only,
    )


def with_runtime(debug: Debug, num_cpu: int, saturated: float) -> Debug:
    """The defaults that depend on the host: *saturated* is unwraps per second on all cores, 0 if unknown."""
    cpus = max(1, num_cpu)

    def default(value: int, otherwise: int) -> int:
        return value if value > 0 else otherwise

    sphinx = default(debug.num_sphinx_workers, cpus)
    half = max(1, cpus // 2)
    burst = debug.scheduler_max_burst
    if burst <= 0:
        burst = cpus
        if saturated > 0:
            burst = max(burst, math.floor(10.0 / (cpus * 1000.0 / saturated) + 0.5))
        burst = min(max(burst, sphinx), 256)
    return attrs.evolve(
        debug,
        num_sphinx_workers=sphinx,
        num_gateway_workers=default(debug.num_gateway_workers, half),
        num_service_workers=default(debug.num_service_workers, half),
        num_kaetzchen_workers=default(debug.num_kaetzchen_workers, half),
        scheduler_max_burst=burst,
    )
