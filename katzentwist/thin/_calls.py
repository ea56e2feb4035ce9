"""The calls that wait, once for all faces (spec: client 16.1).

Each is a coroutine that awaits nothing but :meth:`Face._wait`, so it runs under asyncio and under Twisted. A face takes
them as its methods, as they are or by a decorator that says what they return there.
"""

from __future__ import annotations

from typing import Any

from katzentwist.thin._face import DEFAULT_TIMEOUT, Face


async def send_message_without_reply(self: Face, payload: bytes | str, dest_node: bytes, dest_queue: bytes) -> None:
    """A message to which no reply is possible; done when it was handed to the daemon."""
    self._core.send(payload, dest_node, dest_queue, None)
    self._flush()


async def send_message(self: Face, surb_id: bytes, payload: bytes | str, dest_node: bytes, dest_queue: bytes) -> None:
    """A message with a SURB; its events carry *surb_id*. Done when it was handed to the daemon."""
    self._core.send(payload, dest_node, dest_queue, surb_id)
    self._flush()


async def blocking_send_message(
    self: Face, payload: bytes | str, dest_node: bytes, dest_queue: bytes, timeout_seconds: float = DEFAULT_TIMEOUT
) -> bytes:
    """Send and wait for the reply, which is padded with zeros.

    :raises NotSentError: nothing left.
    :raises RefusedError: the daemon said no.
    :raises OverdueError: no reply in time.
    :raises LostError: the daemon, or the connection to it, is gone.
    """
    surb_id = self.new_surb_id()
    self._core.send(payload, dest_node, dest_queue, surb_id)
    reply: bytes = await self._wait(self._core.wait_for_reply(surb_id), timeout_seconds)
    return reply


async def send_reliable_message(
    self: Face, message_id: bytes, payload: bytes | str, dest_node: bytes, dest_queue: bytes
) -> None:
    """A message that the daemon sends again until a reply comes; its events carry *message_id*."""
    self._core.send_reliable(message_id, payload, dest_node, dest_queue)
    self._flush()


async def blocking_send_reliable_message(  # noqa: PLR0917 - the order of the published package
    self: Face,
    message_id: bytes | None,
    payload: bytes | str,
    dest_node: bytes,
    dest_queue: bytes,
    timeout_seconds: float | None = None,
) -> bytes:
    """The same, waiting for the reply; without a time-out the daemon's tries are the limit."""
    id_ = message_id or self.new_message_id()
    self._core.send_reliable(id_, payload, dest_node, dest_queue)
    reply: bytes = await self._wait(self._core.wait_for_reliable(id_), timeout_seconds)
    return reply


async def cancel_reliable_message(self: Face, message_id: bytes) -> None:
    """Give a reliable message up; MessageIDGarbageCollected follows at once."""
    self._core.cancel_reliable(message_id)
    self._flush()


async def get_pki_document_raw(self: Face, epoch: int = 0) -> tuple[bytes, int]:
    """(signed document, its epoch); 0 asks for the current one.

    :raises RefusedError: the daemon does not have it.
    """
    fields = await self._wait(self._core.query("get_pki_document", epoch=epoch), None)
    return fields["payload"], fields["epoch"]


async def get_directory_authorities(self: Face) -> list[dict[str, Any]]:
    """The authorities whose signatures the daemon counts."""
    fields = await self._wait(self._core.query("get_directory_authorities"), None)
    return list(fields["authorities"] or ())
