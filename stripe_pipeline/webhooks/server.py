"""Listening for webhooks: the socket, and uvicorn's limits.

`receiver` answers the requests. Clients that send no complete request are cut off by the reverse proxy in front, which
https needs anyway.
"""

from __future__ import annotations

import socket

import uvicorn
from starlette.types import ASGIApp

from stripe_pipeline.errors import PortTaken

_IDLE_SECONDS = 75  # between two requests; longer than reverse proxies keep an idle connection
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
    config = uvicorn.Config(
        app,
        http="h11",  # which can limit the headers
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing uses a client's address
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_LONGEST_HEADERS,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=1,
    )
    with listener:
        uvicorn.Server(config).run(sockets=[listener])


def address_of(listener: socket.socket) -> str:
    """The listener's address, as a URL without a path."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
