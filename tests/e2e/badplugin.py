#!/usr/bin/env python3
"""Plugins that behave badly, or in the old way: ``badplugin.py -mode MODE [-note FILE]``.

Standard library and cbor2 only, and written apart from katzentwist, so that both ends are not wrong together.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import tempfile
import time

import cbor2

ARGUMENTS = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=True))
MODE = ARGUMENTS["-mode"]


def note(text):
    with open(ARGUMENTS["-note"], "a") as file:
        file.write(f"{text}\n")


def connect():
    path = os.path.join(tempfile.mkdtemp(prefix="bad-"), "socket")
    if MODE == "late":
        print(path, flush=True)
        time.sleep(1.5)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen(1)
    if MODE != "late":
        print(path, flush=True)
    if MODE == "chatty":
        sys.stderr.write("to standard error \x1b[31mred\x1b[0m\n")
        sys.stderr.flush()
    connection, _ = listener.accept()
    return connection


def answer(connection, response):
    connection.sendall(cbor2.dumps(response))


def main():
    if MODE == "silent":
        time.sleep(1000)
    if MODE == "refuse":
        print("Log directory 'x' doesn't exist.", flush=True)
        sys.exit("no log directory")
    if MODE == "endless":
        while True:
            os.write(1, b"x" * 1000)
    if MODE == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if MODE == "args":
        note(sys.argv[1:])
    connection = connect()
    if MODE == "stdout":
        os.set_blocking(1, False)
        written = 0
        try:
            while True:
                written += os.write(1, b"x" * 4096)
        except BlockingIOError:
            pass
    if MODE == "flood":
        block = cbor2.dumps({"ID": 1, "Payload": b"x" * 1000, "SURB": None}) * 1000
        for _ in range(100):
            connection.sendall(block)
        note("flooded")
        time.sleep(1000)
    if MODE == "announce":
        connection.sendall(bytes.fromhex("a1675061796c6f6164") + b"\x5a" + (100 << 20).to_bytes(4, "big"))
        for _ in range(100):
            connection.sendall(bytes(1 << 20))
    if MODE == "garbage":
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        time.sleep(1000)
    stream = connection.makefile("rb")
    decoder = cbor2.CBORDecoder(stream)
    busy = False
    while True:
        try:
            request = decoder.decode()
        except cbor2.CBORDecodeEOF:
            return
        note(f"{request['ID']} {len(request['Payload'])} {sorted(request)}") if MODE in ("old", "log") else None
        if MODE == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif MODE == "hang":
            time.sleep(1000)
        elif MODE in ("old", "stdout", "chatty", "late", "stubborn", "args"):
            # What the older protocol knows, and strictly one at a time.
            payload, has_surb = request["Payload"], request["HasSURB"]
            connection.setblocking(False)
            try:
                busy = bool(connection.recv(1, socket.MSG_PEEK))
            except BlockingIOError:
                busy = False
            connection.setblocking(True)
            if busy:
                note("OVERLAP")
            time.sleep(float(ARGUMENTS.get("-sleep", "0")))
            answer(connection, {"Payload": payload if has_surb else b""})
        elif MODE == "long":
            answer(connection, {"ID": request["ID"], "Payload": bytes(3000), "SURB": request["SURB"]})
            answer(connection, {"ID": request["ID"] + 10**6, "Payload": b"", "SURB": request["SURB"]})
        elif MODE == "long-old":
            answer(connection, {"Payload": bytes(3000) if request["Payload"][:1] == b"L" else b"short"})
        elif MODE == "reverse":
            # New shape, lower case, answers pairs in the wrong order.
            second = decoder.decode()
            for r in (second, request):
                answer(connection, {"id": r["ID"], "payload": r["Payload"][:5], "surb": b"own"})
        elif MODE == "log":
            answer(connection, {"ID": request["ID"], "Payload": b"logged"})


if __name__ == "__main__":
    main()
