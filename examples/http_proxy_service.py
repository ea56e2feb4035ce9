#!/usr/bin/env python3
"""HTTP through the mix network, the far end: asks a web server what a client wants to know.

Speaks to examples/http_proxy_client.py, and to the proxy client of Katzenpost. Needs katzentwist installed. In the
node's configuration::

    [[Provider.CBORPluginKaetzchen]]
    Capability = "http"
    Endpoint = "+http"
    Command = "/path/to/http_proxy_service.py"
    [Provider.CBORPluginKaetzchen.Config]
    host = "example.com"        # the one host that may be asked; "*" lets clients ask any, also inside your network
"""

from __future__ import annotations

import asyncio
import http.client
import io
from urllib.parse import urlsplit

import cbor2

from katzentwist.plugins import Kaetzchen, run

PATIENCE = 30.0
HOP_BY_HOP = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "transfer-encoding"}


class HttpProxy(Kaetzchen):
    """Request: an HTTP/1.1 request with an absolute URL. Response: a CBOR map, ``Payload`` is the HTTP response."""

    def configured(self) -> None:
        self.host = self.config.get("host", "")
        if not self.host:
            raise ValueError("Config needs host: the name that may be asked, or *")

    async def handle(self, payload: bytes, has_surb: bool) -> bytes | None:
        response = await asyncio.to_thread(self.fetch, payload, len(payload))
        answer = cbor2.dumps({"Payload": response})
        if len(answer) > len(payload):
            answer = cbor2.dumps({"Payload": wire("502 Bad Gateway", [], b"the response is too long for one packet\n")})
        return answer

    def fetch(self, request: bytes, limit: int) -> bytes:
        """The response in wire form; its body ends somewhere beyond *limit*. An exception means no answer."""
        head, _, rest = request.partition(b"\r\n\r\n")
        line, _, fields = head.partition(b"\r\n")
        method, target, _ = line.decode("ascii").split(" ")
        headers = http.client.parse_headers(io.BytesIO(fields + b"\r\n\r\n"))
        url = urlsplit(target)
        if url.scheme not in ("http", "https") or self.host not in ("*", url.hostname, url.netloc):
            raise PermissionError("not a host that may be asked")
        size = int(headers.get("Content-Length", 0))
        if not 0 <= size <= len(rest):
            raise ValueError("the request is cut short")
        kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
        connection = kind(url.hostname or "", url.port, timeout=PATIENCE)
        try:
            path = (url.path or "/") + (f"?{url.query}" if url.query else "")
            passed = {name: value for name, value in headers.items() if name.lower() not in HOP_BY_HOP}
            connection.request(method, path, rest[:size] or None, passed)
            response = connection.getresponse()
            return wire(f"{response.status} {response.reason}", response.getheaders(), response.read(limit + 1))
        finally:
            connection.close()


def wire(status: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    """A response as bytes."""
    fields = [f"{k}: {v}" for k, v in headers if k.lower() not in HOP_BY_HOP | {"content-length"}]
    lines = [f"HTTP/1.1 {status}", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


if __name__ == "__main__":
    run(HttpProxy())
