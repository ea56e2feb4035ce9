"""A small SOCKS5 server with a login (alice, secret): prints its port, then a line for each connection it makes."""

from __future__ import annotations

import asyncio
import socket


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end."""
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One client (RFC 1928, RFC 1929)."""
    version, count = await reader.readexactly(2)
    methods = await reader.readexactly(count)
    assert version == 5
    assert 2 in methods
    writer.write(b"\x05\x02")
    _, size = await reader.readexactly(2)
    user = await reader.readexactly(size)
    password = await reader.readexactly((await reader.readexactly(1))[0])
    good = (user, password) == (b"alice", b"secret")
    writer.write(bytes([1, not good]))
    if not good:
        writer.close()
        return
    _, command, _, kind = await reader.readexactly(4)
    assert (command, kind) == (1, 1)
    host = socket.inet_ntoa(await reader.readexactly(4))
    port = int.from_bytes(await reader.readexactly(2), "big")
    far_reader, far_writer = await asyncio.open_connection(host, port)
    print(f"connected to {host}:{port}", flush=True)
    writer.write(b"\x05\x00\x00\x01" + bytes(6))
    await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer), return_exceptions=True)


async def main() -> None:
    """Listen on a free port."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


asyncio.run(main())
