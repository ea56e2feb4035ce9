"""A benchmark as a coroutine in the reactor."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from katzentwist.net.bursts import Marks


def sleep(seconds: float) -> Deferred[None]:
    """Wait."""
    done: Deferred[None] = Deferred(lambda _: call.cancel())
    call = reactor.callLater(seconds, done.callback, None)
    return done


class Beat:
    """Wakes a coroutine at each full millisecond: a timer of the reactor would do so at every second or third."""

    def __init__(self) -> None:
        self._marks = Marks(reactor, self._beat)
        self._waiting: Deferred[None] | None = None

    def __enter__(self) -> Beat:
        self._marks.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._marks.stop()
        del self._marks  # and its timer: we know each other

    async def next(self) -> None:
        """Wait for the next one."""
        self._waiting = Deferred()
        await self._waiting

    def _beat(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            waiting.callback(None)


def run_in_reactor(
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    explain: Callable[[], None] = lambda: None,
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """Run it to its end, and end the program: with status 1 and the reason if it failed, or if a signal ended it.

    A signal cancels what the coroutine waits for, so that each ``finally`` of it is run.

    :param explain: called after a failure, before *clean_up*.
    :param clean_up: called at the end, a signal's included.
    """
    status, interrupted = 1, False
    going: Deferred[None] | None = None

    async def go() -> None:
        nonlocal status
        try:
            await work()
            status = 0
        except SystemExit as e:
            print(e, file=sys.stderr)
            explain()
        except Exception:
            if not interrupted:
                traceback.print_exc()
                explain()
        finally:
            if not interrupted:
                reactor.stop()

    def begin() -> None:
        nonlocal going
        going = Deferred.fromCoroutine(go())

    def end() -> None:
        nonlocal interrupted
        if going is not None and not going.called:
            interrupted = True
            print("interrupted", file=sys.stderr)
            going.cancel()
        clean_up()

    reactor.callWhenRunning(begin)
    # Also when a signal ends the program: the node under test and the threads must not stay behind.
    reactor.addSystemEventTrigger("before", "shutdown", end)
    reactor.run()
    sys.exit(status)
