"""Listening for webhooks: the socket, uvicorn's limits, and idle connections.

`receiver` answers the requests.
"""

from __future__ import annotations

import asyncio
import socket
import time
from typing import Any

import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from stripe_pipeline.errors import PortTaken

_HEADERS_SECONDS = 10.0  # for the headers of a connection's first request to arrive
_IDLE_SECONDS = 75.0  # between two requests; longer than reverse proxies keep an idle connection
_MOST_CONNECTIONS = 500  # open at once, well below the usual limit of 1,024 open files
_LONGEST_HEADERS = 16_384  # bytes


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; on any free port if `port` is 0. Raises `PortTaken`."""
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=1024
        )
    except OSError as error:
        raise PortTaken(
            f"Port {port} of {host} cannot be used ({error.strerror})",
            "Name another one with --port, or another address of this machine with --host",
        ) from None


def serve(app: ASGIApp, listener: socket.socket) -> None:
    """Answer on `listener` until SIGINT or SIGTERM, which are then raised as they would have been without it."""
    connections = _Connections(app)
    config = uvicorn.Config(
        connections,
        http=connections.protocol,
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # connections are identified by the actual peer address
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
        timeout_keep_alive=int(_IDLE_SECONDS),
        timeout_graceful_shutdown=1,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


class _Connections:
    """Closes connections without a request: uvicorn itself waits forever for a complete one.

    Wraps an ASGI application, and provides the protocol that uvicorn needs.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._open: dict[Any, asyncio.Transport] = {}
        self._ends: dict[Any, float] = {}
        """When connections without an active request end."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            closing = asyncio.create_task(self._close_quiet())
            try:
                await self._app(scope, receive, send)
            finally:
                closing.cancel()
            return
        peer = tuple(scope["client"] or ())
        self._ends.pop(peer, None)
        try:
            await self._app(scope, receive, send)
        finally:
            if peer in self._open:
                self._ends[peer] = time.monotonic() + _IDLE_SECONDS

    async def _close_quiet(self) -> None:
        while True:
            await asyncio.sleep(1)
            for peer, end in list(self._ends.items()):
                if time.monotonic() > end:
                    del self._ends[peer]
                    self._open[peer].abort()

    @property
    def protocol(self) -> type[asyncio.Protocol]:
        """uvicorn's HTTP protocol, recording its connections."""
        connections = self

        class Protocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                self._peer = tuple(transport.get_extra_info("peername") or ())[:2]
                connections._open[self._peer] = transport
                connections._ends[self._peer] = time.monotonic() + _HEADERS_SECONDS
                super().connection_made(transport)

            def connection_lost(self, exc: Exception | None) -> None:
                connections._open.pop(self._peer, None)
                connections._ends.pop(self._peer, None)
                super().connection_lost(exc)

        return Protocol


def address_of(listener: socket.socket) -> str:
    """The listener's address, as a URL without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
