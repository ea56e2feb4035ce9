"""The rules of talking to one plugin process (spec: node 7.9). Sans-IO; times are monotonic seconds.

The older protocol is strictly synchronous, that of v0.0.99 is not, and a node is not told which one a plugin speaks. So
one request at a time is outstanding until the first response shows the shape:

==========  ======================================  ==========================================================
shape       next request                            a response answers
==========  ======================================  ==========================================================
unknown     after the response, or after 30 s       what its ID says; without ID or SURB the oldest request
old         after the response; 30 s: out of step   the oldest request
new         at any time                             what its ID says
==========  ======================================  ==========================================================
"""

from __future__ import annotations

import enum
from collections import OrderedDict
from typing import Final, Generic, TypeVar

import attrs

from katzentwist.errors import PluginError
from katzentwist.plugins.messages import PluginRequest, PluginResponse

T = TypeVar("T")

PATIENCE: Final = 30.0
"""Seconds that one outstanding request may hold up the next one."""
MAX_STRAYS: Final = 1000
"""Responses to nothing, without a useful one in between; a plugin that sends more floods us."""


class Shape(enum.Enum):
    """What is known of a plugin's protocol."""

    UNKNOWN = "auto"
    NEW = "async"
    OLD = "sync"


@attrs.define
class Exchange:
    """What is outstanding at one process.

    :param shape: that of the configuration key ``Protocol``.
    """

    shape: Shape = Shape.UNKNOWN
    _fixed: Shape = attrs.field(init=False)
    _current: int | None = None
    _sent: OrderedDict[int, float] = attrs.field(factory=OrderedDict)
    _strays: int = 0

    def __attrs_post_init__(self) -> None:
        self._fixed = self.shape

    def encode(self, request: PluginRequest, response_size: int) -> bytes:
        """The request in the shape that the configuration names, or in the superset."""
        if self._fixed is Shape.NEW:
            return request.encode()
        if self._fixed is Shape.OLD:
            return request.encode_old(response_size)
        return request.encode_both(response_size)

    @property
    def ready(self) -> bool:
        """Whether the next request may be written."""
        return self.shape is Shape.NEW or self._current is None

    def load(self, now: float) -> int:
        """How many requests were sent lately and are not answered: the busier of two processes has more."""
        if self.shape is Shape.NEW:
            while self._sent and next(iter(self._sent.values())) < now - PATIENCE:
                self._sent.popitem(last=False)
        return len(self._sent)

    def sent(self, number: int, now: float) -> None:
        """A request was written."""
        self._sent[number] = now
        if self.shape is not Shape.NEW:
            self._current = number

    def deadline(self) -> float | None:
        """When :meth:`time_out` is to be called."""
        return None if self._current is None else self._sent[self._current] + PATIENCE

    def time_out(self) -> None:
        """The outstanding request was not answered in time.

        :raises PluginError: the process is out of step and must be restarted.
        """
        if self.shape is Shape.OLD and self._current is not None:
            raise PluginError(f"no answer within {PATIENCE:.0f} s")
        self._current = None  # perhaps it answers only some requests; they stay in order in case it is just slow

    def received(self, response: PluginResponse) -> int:
        """The ID of the request that this response answers.

        :raises PluginError: an old-shape answer to nothing: the process is out of step.
        """
        old = self.shape is Shape.OLD or (self.shape is Shape.UNKNOWN and not response.new_shape)
        if not old:
            self.shape = Shape.NEW
            self._current = None
            self._sent.pop(response.id, None)
            return response.id
        self.shape = Shape.OLD
        if not self._sent:
            raise PluginError("a response without a request")
        number, _ = self._sent.popitem(last=False)
        if number == self._current:
            self._current = None
        return number

    def useful(self, was: bool) -> None:
        """Whether the last response belonged to a request that we know.

        :raises PluginError: none of the last :data:`MAX_STRAYS` did.
        """
        self._strays = 0 if was else self._strays + 1
        if self._strays > MAX_STRAYS:
            raise PluginError(f"{MAX_STRAYS} responses to nothing")


@attrs.define
class Ledger(Generic[T]):
    """Requests that may still be answered, by ID. It outlives processes, since a plugin may keep what it was sent.

    :ivar lifetime: seconds after which a request is forgotten: no SURB lives longer than 2 epochs.
    :ivar most: entries; the oldest ones leave first.
    """

    lifetime: float
    most: int
    _entries: OrderedDict[int, tuple[float, T]] = attrs.field(factory=OrderedDict)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, number: int, entry: T, now: float) -> list[T]:
        """Remember a request; those that had to leave before their time."""
        self._entries[number] = (now, entry)
        forgotten = []
        while self._entries:
            began, oldest = next(iter(self._entries.values()))
            alive = began > now - self.lifetime
            if alive and len(self._entries) <= self.most:
                break
            self._entries.popitem(last=False)
            if alive:
                forgotten.append(oldest)
        return forgotten

    def take(self, number: int, now: float) -> T | None:
        """The request, which can be answered only once: a second packet by one SURB would be dropped as a replay."""
        began, entry = self._entries.pop(number, (0.0, None))
        return entry if entry is not None and began > now - self.lifetime else None
