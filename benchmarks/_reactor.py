"""A benchmark as a coroutine in the reactor."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred


def run_in_reactor(
    work: Callable[[], Coroutine[Any, Any, None]],
    *,
    explain: Callable[[], None] = lambda: None,
    clean_up: Callable[[], None] = lambda: None,
) -> None:
    """Run it to its end, and end the program: with status 1 and the reason if it failed.

    :param explain: called after a failure, before *clean_up*.
    :param clean_up: called at the end, a signal's included.
    """
    failed = False

    async def go() -> None:
        nonlocal failed
        try:
            await work()
        except SystemExit as e:
            failed = True
            print(e, file=sys.stderr)
            explain()
        except Exception:
            failed = True
            traceback.print_exc()
            explain()
        finally:
            if reactor.running:
                reactor.stop()

    # Also when a signal ends the program: the node under test and the threads must not stay behind.
    reactor.addSystemEventTrigger("before", "shutdown", clean_up)
    reactor.callWhenRunning(lambda: Deferred.fromCoroutine(go()))
    reactor.run()
    sys.exit(1 if failed else 0)
