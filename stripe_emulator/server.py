"""The emulator as a running server: a socket on this machine, a thread, background trading.

Answers belong to `app`, deliveries to `webhooks`; running as a separate process belongs to `__main__`.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.types import Scope
from uvicorn.protocols.http.auto import AutoHTTPProtocol

from stripe_emulator.app import create_app
from stripe_emulator.faults import Fault, LoggedRequest
from stripe_emulator.permissions import Permissions
from stripe_emulator.shop import Shop
from stripe_emulator.shop.demo_data import GOODS
from stripe_emulator.webhooks import Webhooks

_HOST = "127.0.0.1"
_START_SECONDS = 10.0

_FIRST_TRADES = (10, 60, 120, 240, 480)
"""Seconds after the start at which a guest buys something, so that a person who watches sees changes."""


class Server:
    """Serves a shop on 127.0.0.1 and sends its webhooks during the `with` block."""

    def __init__(
        self,
        shop: Shop | None = None,
        *,
        port: int = 0,
        webhook_backoff: float = 1.0,
        webhook_concurrency: int = 20,
        webhook_timeout: float = 30.0,
        **options: Any,
    ) -> None:
        """`Webhooks` explains the arguments with prefix `webhook_`; `options` are those of `create_app`."""
        self.shop = shop or Shop()
        self.webhooks = Webhooks(
            self.shop, backoff=webhook_backoff, concurrency=webhook_concurrency, timeout=webhook_timeout
        )
        """Delivers events; can also hold and repeat deliveries, and wait for deliveries."""
        self.faults: list[Fault] = list(options.pop("faults", ()))
        """Rules in force; may be changed at any time."""
        self.requests: list[LoggedRequest] = []
        """Every request so far; `clear()` empties the log."""
        self.permissions = Permissions()
        """The permissions of restricted keys; may be changed at any time."""
        self._port = port
        self._options = options
        self._connections = _Connections()
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def url(self) -> str:
        """The base URL of the API, without a path."""
        return f"http://{_HOST}:{self._port}"

    def deny(self, resource: str) -> None:
        """Deny restricted keys the permission to read `resource`, such as `charges`."""
        self.permissions.deny(resource)

    def allow(self, resource: str) -> None:
        """Restore the permission to read `resource` to restricted keys."""
        self.permissions.allow(resource)

    def trade_every(self, seconds: float, *, livemode: bool | None = None) -> None:
        """Perform a random action in the shop every `seconds` until the server stops."""
        self._start(lambda: self._trade(seconds, livemode))

    def go_on_trading(self) -> None:
        """Continue the shop's history at its own pace until the server stops; a few guests buy soon after the start."""
        self._start(self._go_on_trading)

    def __enter__(self) -> Self:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((_HOST, self._port))
        except OSError:
            listener.close()
            raise
        self._port = listener.getsockname()[1]
        app = create_app(
            self.shop,
            faults=self.faults,
            permissions=self.permissions,
            requests=self.requests,
            disconnect=self._disconnect,
            webhooks=self.webhooks,
            **self._options,
        )
        config = uvicorn.Config(
            app,
            http=_protocol(self._connections),
            ws="websockets-sansio",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            server_header=False,
        )
        self._server = uvicorn.Server(config)
        self._stopping.clear()
        self.webhooks.start()
        self._start(lambda: self._serve(listener))
        waited = threading.Event()
        for _ in range(int(_START_SECONDS / 0.005)):
            if self._server.started:
                return self
            waited.wait(0.005)
        self.__exit__(None, None, None)
        raise RuntimeError(f"the emulator did not start within {_START_SECONDS:.0f} seconds")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self.webhooks.stop()
        self._server.should_exit = True
        # Do not wait for requests that a fault still delays.
        self._connections.abort_all()
        while self._threads:
            self._threads.pop().join()

    def _start(self, work: Any) -> None:
        thread = threading.Thread(target=work, name="stripe-emulator", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _serve(self, listener: socket.socket) -> None:
        with listener:
            self._server.run(sockets=[listener])

    def _trade(self, seconds: float, livemode: bool | None) -> None:
        while not self._stopping.wait(seconds):
            self.shop.trade(livemode)

    def _go_on_trading(self) -> None:
        soon, seconds = list(_FIRST_TRADES), 0
        while not self._stopping.wait(1):
            seconds += 1
            self.shop.go_on()
            if soon and seconds >= soon[0]:
                del soon[0]
                # Not a random action: that could end what the history still has plans for.
                self.shop.create_payment(livemode=True, description=f"Order: {GOODS[len(soon)]}")

    def _disconnect(self, scope: Scope, graceful: bool) -> None:
        transport = self._connections.open[tuple(scope["client"])]
        if graceful:
            transport.close()
        else:
            transport.abort()


class _Connections:
    """Open connections, by client address."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, int], asyncio.Transport] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def add(self, peer: tuple[str, int], transport: asyncio.Transport) -> None:
        self._loop = asyncio.get_running_loop()
        self.open[peer] = transport

    def abort_all(self) -> None:
        """Abort all connections; called from another thread while the loop runs."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._abort_all)

    def _abort_all(self) -> None:
        for transport in list(self.open.values()):
            transport.abort()


def _protocol(connections: _Connections) -> type[asyncio.Protocol]:
    """Returns uvicorn's HTTP protocol, extended to record its connections."""

    class Protocol(AutoHTTPProtocol):  # type: ignore[valid-type, misc]
        def connection_made(self, transport: asyncio.Transport) -> None:
            self._peer = transport.get_extra_info("peername")
            connections.add(self._peer, transport)
            super().connection_made(transport)

        def connection_lost(self, exc: Exception | None) -> None:
            connections.open.pop(self._peer, None)
            super().connection_lost(exc)

    return Protocol
