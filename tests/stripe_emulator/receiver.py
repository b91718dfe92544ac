"""A web server that receives webhooks, and a function that waits for them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

import orjson
import stripe


def wait_for(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Wait until the condition is true; fail after that many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.005)


@dataclass(frozen=True)
class Received:
    """One POST that was received."""

    path: str
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes
    peer: int
    """The sender's port: one for each connection."""

    @property
    def event(self) -> dict[str, Any]:
        """The event in the body."""
        event: dict[str, Any] = orjson.loads(self.body)
        return event

    @property
    def signed_at(self) -> int:
        """The signature's `t`."""
        return int(self.headers["stripe-signature"].partition("t=")[2].partition(",")[0])

    def verify(self, secret: str) -> None:
        """Raise stripe-python's SignatureVerificationError unless the body was signed just now, with `secret`."""
        stripe.Webhook.construct_event(self.body, self.headers["stripe-signature"], secret)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    """With the default of 5, simultaneous connections get lost."""


@dataclass
class Receiver:
    """Collects the requests that it receives while its `with` block runs."""

    statuses: deque[int] = field(default_factory=deque)
    """The statuses of the next answers, then 200 forever; 0 means that the answer waits until the block ends."""
    received: list[Received] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._over = threading.Event()
        self._server = _Server(("127.0.0.1", 0), self._handler())
        self.url = f"http://127.0.0.1:{self._server.server_port}/webhooks/stripe"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def events(self) -> list[str]:
        """Ids of the events that were received."""
        return [received.event["id"] for received in self.received]

    @property
    def kinds(self) -> list[str]:
        """Types of the events that were received."""
        return [received.event["type"] for received in self.received]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                named = {name.lower(): value for name, value in self.headers.items()}
                receiver.received.append(Received(self.path, named, body, self.client_address[1]))
                try:
                    status = receiver.statuses.popleft()
                except IndexError:
                    status = 200
                if status == 0:
                    receiver._over.wait()
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", "0")
                if 300 <= status < 400:
                    self.send_header("Location", receiver.url)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
