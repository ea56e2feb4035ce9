"""Why packets are dropped: every discarded packet has one of these names and is counted (spec: node 4.11)."""

from __future__ import annotations

import enum

from katzentwist.status.metrics import Metrics


class DropReason(enum.Enum):
    """The reasons, by upstream's names."""

    INCOMING_OUT_OF_EPOCH = "incoming_out_of_epoch"
    GATEWAY_RATE_LIMITED = "gateway_rate_limited"
    UNWRAP_DWELL_EXCEEDED = "unwrap_dwell_exceeded"
    UNWRAP_FAILED = "unwrap_failed"
    UNWRAP_PAYLOAD_UNEXPECTED = "unwrap_payload_unexpected"
    PROVIDER_FORWARD_FROM_MIX = "provider_forward_from_mix"
    MIX_RECEIVED_NON_FORWARD = "mix_received_non_forward"
    CLIENT_TO_LOCAL_USER = "client_to_local_user"
    INVALID_PACKET = "invalid_packet"
    DELAY_IMPOSSIBLE = "delay_impossible"
    ZERO_DELAY_EXCESSIVE_DWELL = "zero_delay_excessive_dwell"
    SCHEDULER_DELAY_EXCEEDS_MAX = "scheduler_delay_exceeds_max"
    SCHEDULER_NEXT_HOP_INVALID = "scheduler_next_hop_invalid"
    SCHEDULER_QUEUE_OVERFLOW = "scheduler_queue_overflow"
    SCHEDULER_DEADLINE_BLOWN = "scheduler_deadline_blown"
    BOLT_ENQUEUE_FAILED = "bolt_enqueue_failed"
    BOLT_POP_DEADLINE_BLOWN = "bolt_pop_deadline_blown"
    BOLT_POP_S11N_FAILURE = "bolt_pop_s11n_failure"
    DISPATCH_NO_CONNECTION = "dispatch_no_connection"
    OUTGOING_QUEUE_FULL = "outgoing_queue_full"
    OUTGOING_PEER_NOT_CONNECTED = "outgoing_peer_not_connected"
    OUTGOING_SEND_DEADLINE_BLOWN = "outgoing_send_deadline_blown"
    OUTGOING_SEND_COMMAND_FAILED = "outgoing_send_command_failed"
    GATEWAY_DWELL_EXCEEDED = "gateway_dwell_exceeded"
    GATEWAY_PARSE_FORWARD_FAILED = "gateway_parse_forward_failed"
    GATEWAY_INVALID_RECIPIENT = "gateway_invalid_recipient"
    GATEWAY_STORE_FAILED = "gateway_store_failed"
    SERVICE_DWELL_EXCEEDED = "service_dwell_exceeded"
    SERVICE_UNKNOWN_RECIPIENT = "service_unknown_recipient"
    SERVICE_KAETZCHEN_SURB_REPLY = "service_kaetzchen_surb_reply"
    SERVICE_CBOR_KAETZCHEN_SURB_REPLY = "service_cbor_kaetzchen_surb_reply"
    KAETZCHEN_DWELL_EXCEEDED = "kaetzchen_dwell_exceeded"
    KAETZCHEN_PARSE_FORWARD_FAILED = "kaetzchen_parse_forward_failed"
    KAETZCHEN_UNKNOWN_RECIPIENT = "kaetzchen_unknown_recipient"
    KAETZCHEN_HANDLER_FAILED = "kaetzchen_handler_failed"
    CBOR_KAETZCHEN_DWELL_EXCEEDED = "cbor_kaetzchen_dwell_exceeded"
    CBOR_KAETZCHEN_NO_HANDLER = "cbor_kaetzchen_no_handler"
    CBOR_KAETZCHEN_PARSE_FORWARD_FAILED = "cbor_kaetzchen_parse_forward_failed"
    CBOR_KAETZCHEN_RESPONSE_TOO_LONG = "cbor_kaetzchen_response_too_long"
    CBOR_KAETZCHEN_UNKNOWN_RESPONSE_TYPE = "cbor_kaetzchen_unknown_response_type"
    DECOY_INVALID_RECIPIENT = "decoy_invalid_recipient"
    DECOY_INVALID_SURB_ID_BASE = "decoy_invalid_surb_id_base"
    DECOY_UNKNOWN_SURB_ID = "decoy_unknown_surb_id"
    DECOY_SURB_DECRYPT_FAILED = "decoy_surb_decrypt_failed"
    SHUTDOWN = "shutdown"


_OUTGOING = "dropped_outgoing_packets_total"
_LATE = "dropped_deadline_blown_packets_total"
_SCHEDULER = "kaetzchen_mix_packets_dropped_total"
_REQUESTS = "kaetzchen_dropped_requests_total"
_R = DropReason
_ALSO = {
    _R.GATEWAY_RATE_LIMITED: ("dropped_rate_limit_total",),
    _R.SCHEDULER_DELAY_EXCEEDS_MAX: (_SCHEDULER,),
    _R.SCHEDULER_NEXT_HOP_INVALID: (_SCHEDULER,),
    _R.SCHEDULER_QUEUE_OVERFLOW: (_SCHEDULER,),
    _R.SCHEDULER_DEADLINE_BLOWN: (_SCHEDULER,),
    _R.BOLT_ENQUEUE_FAILED: (_OUTGOING,),
    _R.BOLT_POP_DEADLINE_BLOWN: (_LATE, _OUTGOING),
    _R.BOLT_POP_S11N_FAILURE: ("dropped_invalid_packets_total", _OUTGOING),
    _R.DISPATCH_NO_CONNECTION: (_OUTGOING,),
    _R.OUTGOING_QUEUE_FULL: (_OUTGOING,),
    _R.OUTGOING_PEER_NOT_CONNECTED: (_OUTGOING,),
    _R.OUTGOING_SEND_COMMAND_FAILED: (_OUTGOING,),
    _R.OUTGOING_SEND_DEADLINE_BLOWN: (_LATE, _OUTGOING),
    _R.KAETZCHEN_DWELL_EXCEEDED: ("kaetzchen_dropped_packets_total",),
    _R.KAETZCHEN_PARSE_FORWARD_FAILED: (_REQUESTS,),
    _R.KAETZCHEN_UNKNOWN_RECIPIENT: (_REQUESTS,),
    _R.KAETZCHEN_HANDLER_FAILED: ("kaetzchen_failed_requests_total",),
    _R.CBOR_KAETZCHEN_NO_HANDLER: (_REQUESTS,),
    _R.CBOR_KAETZCHEN_PARSE_FORWARD_FAILED: (_REQUESTS,),
    _R.CBOR_KAETZCHEN_RESPONSE_TOO_LONG: (_REQUESTS,),
    _R.CBOR_KAETZCHEN_UNKNOWN_RESPONSE_TYPE: (_REQUESTS,),
}
_NOT_A_PACKET = frozenset(
    {
        _R.KAETZCHEN_PARSE_FORWARD_FAILED,
        _R.KAETZCHEN_UNKNOWN_RECIPIENT,
        _R.KAETZCHEN_HANDLER_FAILED,
        _R.CBOR_KAETZCHEN_NO_HANDLER,
        _R.CBOR_KAETZCHEN_PARSE_FORWARD_FAILED,
        _R.CBOR_KAETZCHEN_RESPONSE_TOO_LONG,
        _R.CBOR_KAETZCHEN_UNKNOWN_RESPONSE_TYPE,
    }
)
"""Upstream does not count these among all dropped packets."""


def drop(metrics: Metrics, reason: DropReason, amount: int = 1) -> None:
    """Count *amount* dropped packets."""
    if reason not in _NOT_A_PACKET:
        metrics.count("dropped_packets_total", amount)
    metrics.count("dropped_reason_total", amount, reason=reason.value)
    for name in _ALSO.get(reason, ()):
        metrics.count(name, amount)
