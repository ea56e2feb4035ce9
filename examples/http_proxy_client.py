"""HTTP through the mix network, the near end: ``python examples/http_proxy_client.py thinclient.toml --port 8080``.

A proxy for programs on this machine, as in ``curl -x http://127.0.0.1:8080 http://example.com/``. Each request is one
message to a service such as examples/http_proxy_service.py, and so is each response: both must be short. What a browser
tells about itself goes along; only where it is stays hidden.
"""

import argparse
import asyncio
import contextlib
import io

import cbor2

from katzentwist.thin import ThinClientError
from katzentwist.thin.aio import ThinClient

LONGEST = 1 << 20
NOT_PASSED = (b"connection:", b"proxy-connection:", b"keep-alive:", b"proxy-authorization:")


class Proxy:
    """One thin client for all requests."""

    def __init__(self, client: ThinClient, capability: str, patience: float) -> None:
        self.client, self.capability, self.patience = client, capability, patience

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a program: one request."""
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                response = await self.ask(await read_request(reader))
            except (ThinClientError, ValueError, asyncio.LimitOverrunError) as e:
                text = f"{e}\n".encode()
                response = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: %d\r\n\r\n%b" % (len(text), text)
            writer.write(response)
            await writer.drain()
        writer.close()

    async def ask(self, request: bytes) -> bytes:
        """The response to a request, both in wire form."""
        destination = self.client.get_service(self.capability).to_destination()
        reply = await self.client.blocking_send_message(request, *destination, self.patience)
        try:  # zero bytes follow the map
            response = cbor2.CBORDecoder(io.BytesIO(reply)).decode()["Payload"]
        except (cbor2.CBORDecodeError, KeyError, TypeError):
            response = None
        if not isinstance(response, bytes):
            raise ValueError("the service answered something else")
        return response


async def read_request(reader: asyncio.StreamReader) -> bytes:
    """A request with its body, without what concerns this connection alone."""
    head = await reader.readuntil(b"\r\n\r\n")
    first, *fields = head[:-4].split(b"\r\n")
    if first.startswith(b"CONNECT "):
        raise ValueError("tunnels do not fit into messages; only http:// works")
    fields = [line for line in fields if not line.lower().startswith(NOT_PASSED)]
    sizes = [int(line.partition(b":")[2]) for line in fields if line.lower().startswith(b"content-length:")]
    size = max(sizes, default=0)
    if not 0 <= size <= LONGEST:
        raise ValueError("the request is too long")
    return b"\r\n".join([first, *fields, b"", b""]) + await reader.readexactly(size)


async def main() -> None:
    """Connect, listen, serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="thinclient.toml")
    parser.add_argument("--service", default="http", metavar="NAME", help="capability (default http)")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument("--patience", type=float, default=60.0, metavar="SECONDS", help="for one response (default 60)")
    args = parser.parse_args()
    client = ThinClient(args.config)
    await client.start()
    server = await asyncio.start_server(Proxy(client, args.service, args.patience).serve, "127.0.0.1", args.port)
    print(f"listening on 127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    try:
        await server.serve_forever()
    finally:
        await client.stop()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
