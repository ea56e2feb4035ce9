#!/usr/bin/env python3
"""A plugin without katzentwist: the standard library and cbor2 only. It answers with the request, reversed.

docs/plugins.md explains each step. It works under katzentwist nodes and under Go nodes of v0.0.99.
"""

import socket
import tempfile
from pathlib import Path

import cbor2


def main():
    path = Path(tempfile.mkdtemp(prefix="plain-")) / "socket"
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen(1)
    print(path, flush=True)  # the one line that the node reads, once the socket is there
    connection, _ = listener.accept()
    listener.close()
    path.unlink()
    path.parent.rmdir()
    serve(connection)


def serve(connection):
    with connection, connection.makefile("rb") as stream:
        decoder = cbor2.CBORDecoder(stream)  # takes one item after another, and no byte more
        while True:
            try:
                request = decoder.decode()
            except cbor2.CBORDecodeEOF:
                return  # the node is gone
            text = (request["Payload"] or b"").rstrip(b"\0")
            if not request["SURB"]:
                continue  # nobody waits for an answer
            response = {
                "RequestAt": request["RequestAt"],
                "Delay": request["Delay"],
                "ID": request["ID"],
                "Payload": text[::-1],
                "SURB": request["SURB"],
            }
            connection.sendall(cbor2.dumps(response))


if __name__ == "__main__":
    main()
