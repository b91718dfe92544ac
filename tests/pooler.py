"""A pooler in front of Postgres, such as PgBouncer: clients connect to it, and it lends them sessions of the server."""

from __future__ import annotations

import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Protocol

import sqlalchemy as sa

_VERSION = 196608  # of the protocol
_ENDS = (b"Q", b"S")  # a query, or the end of a statement with parameters: the server answers


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Session:
    """A session of the server."""

    def __init__(self, url: sa.URL) -> None:
        with socket.socket(socket.AF_UNIX) as connected:
            connected.connect(str(Path(str(url.query["host"]), ".s.PGSQL.5432")))
            self.stream = connected.makefile("rwb")
        start = f"user\0{url.username}\0database\0{url.database}\0\0".encode()
        self.stream.write(struct.pack("!ii", len(start) + 8, _VERSION) + start)
        self.greeting = b"".join(message for message in self.answer() if message[:1] == b"S")
        """The parameters that the server names when a client connects."""
        self.is_idle = True

    def answer(self) -> Iterator[bytes]:
        """The messages of the server until it is ready."""
        self.stream.flush()
        while message := _message(self.stream):
            yield message
            if message[:1] == b"Z":
                self.is_idle = message[-1:] == b"I"  # no transaction is open
                return


def _message(stream: _Readable) -> bytes:
    """The next message; empty at the end of the stream."""
    head = stream.read(5)
    return head + stream.read(struct.unpack("!i", head[1:])[0] - 4) if len(head) == 5 else b""


@contextmanager
def pooler(postgres: str, sessions: int | None) -> Iterator[str]:
    """The address of a pooler in front of the server at `postgres`.

    It lends so many `sessions` for a transaction each, those first that have been idle for longest. With None, each
    client has a session of its own.
    """
    url = sa.make_url(postgres)
    pool: SimpleQueue[_Session] = SimpleQueue()

    class Client(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            own = pool.get() if sessions else open_session()
            while struct.unpack("!ii", head := self.rfile.read(8))[1] != _VERSION:
                self.wfile.write(b"N")  # no encryption
            self.rfile.read(struct.unpack("!i", head[:4])[0] - 8)
            number = struct.pack("!ciii", b"K", 12, threading.get_native_id(), 1)
            self.wfile.write(b"R\0\0\0\x08\0\0\0\0" + own.greeting + number + b"Z\0\0\0\x05I")
            lent = None if sessions else own
            if sessions:
                pool.put(own)
            while (message := _message(self.rfile)) and message[:1] != b"X":
                session = lent = lent or pool.get()
                session.stream.write(message)
                if message[:1] in _ENDS:
                    self.wfile.write(b"".join(session.answer()))
                    if sessions and session.is_idle:
                        pool.put(session)
                        lent = None
            if not sessions:
                own.stream.close()

    class Pooler(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with ExitStack() as stack:

        def open_session() -> _Session:
            session = _Session(url)
            stack.callback(session.stream.close)
            return session

        for _ in range(sessions or 0):
            pool.put(open_session())
        server = stack.enter_context(Pooler(("127.0.0.1", 0), Client))
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        stack.callback(thread.join)
        stack.callback(server.shutdown)
        yield f"postgresql://{url.username}@127.0.0.1:{server.server_address[1]}/{url.database}"
