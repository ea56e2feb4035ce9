"""A process that fills an authority's store until it is killed, and says what was acknowledged.

Arguments: folder, name of the round. Lines on standard output: ``open``, then ``upload EPOCH NODE``, ``document EPOCH
CONTAINER``, ``refused EPOCH`` (the epoch has a document already).
"""

from __future__ import annotations

import sys
from pathlib import Path

from twisted.internet import reactor
from twisted.internet.defer import Deferred

from katzentwist.crypto.hash import blake2b_256
from katzentwist.dirauth.state import AuthorityState
from katzentwist.errors import StoreError

IDENTITY = bytes(32)


def say(*words: object) -> None:
    """One line, out at once."""
    sys.stdout.write(" ".join(map(str, words)) + "\n")
    sys.stdout.flush()


async def write(folder: str, stage: str) -> None:
    """Uploads in bursts, and a document for each epoch."""
    state = AuthorityState(Path(folder), IDENTITY, reactor.callFromThread)
    await state.open()
    say("open")
    for epoch in range(1, 10**6):
        saving = []
        for number in range(10):
            node = blake2b_256(f"{stage} {epoch} {number}".encode())
            saved = state.save_upload(epoch, node, node * 50)
            saved.addCallback(lambda _, e=epoch, n=node: say("upload", e, n.hex()))
            saving.append(saved)
        container = blake2b_256(f"{stage} {epoch}".encode())
        try:
            await state.save_document(epoch, container)
            say("document", epoch, container.hex())
        except StoreError:
            say("refused", epoch)
        for saved in saving:
            await saved


def main() -> None:
    """Run until killed."""
    Deferred.fromCoroutine(write(*sys.argv[1:])).addErrback(lambda failure: say("failed", failure))
    reactor.run()


if __name__ == "__main__":
    main()
