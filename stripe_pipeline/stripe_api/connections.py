"""HTTP connections to Stripe: pools, TLS, proxies, and the time limit of one request.

Here belongs how bytes travel. Which requests are sent and when one is sent again belongs to `client`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from functools import cache
from typing import Any, Self
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3

from stripe_pipeline.addresses import is_local

CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 32


class TimeLimit:
    """Shuts the connection of the request that this thread sends once `seconds` have passed.

    Timeouts of sockets only end silence: a peer that sends a byte now and then is never silent.
    """

    _of_thread = threading.local()

    def __init__(self, seconds: float) -> None:
        self.exceeded = False
        self._lock = threading.Lock()
        self._ended = False
        self._connection: urllib3.connection.HTTPConnection | None = None
        self._socket: Any = None
        self._timer = threading.Timer(seconds, self._shut)
        self._timer.daemon = True

    def __enter__(self) -> Self:
        self._of_thread.limit = self
        self._timer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._ended = True  # the connection may be another request's by now
        self._timer.cancel()
        del self._of_thread.limit

    @classmethod
    def use(cls, connection: urllib3.connection.HTTPConnection) -> None:
        """Note which connection this thread's request goes through."""
        limit: TimeLimit | None = getattr(cls._of_thread, "limit", None)
        if limit is not None:
            limit._connection = connection
            # The connection forgets it once it has handed it to an answer that ends with it.
            limit._socket = connection.sock or limit._socket
            if limit.exceeded:
                raise urllib3.exceptions.TimeoutError("The request took too long")

    def _shut(self) -> None:
        with self._lock:
            if self._ended:
                return
            self.exceeded = True
            outer = (self._connection and self._connection.sock) or self._socket
            plain = getattr(outer, "socket", outer)  # below TLS within TLS
            if isinstance(plain, socket.socket):
                with suppress(OSError):
                    # Not the method of an SSL socket, which another thread is reading from.
                    socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Connection(urllib3.connection.HTTPConnection):
    """Tells the time limit of the request under way about itself."""

    def connect(self) -> None:
        TimeLimit.use(self)
        super().connect()

    def request(self, *arguments: Any, **options: Any) -> None:
        TimeLimit.use(self)
        super().request(*arguments, **options)

    def getresponse(self) -> Any:
        TimeLimit.use(self)
        return super().getresponse()


class _TLSConnection(_Connection, urllib3.connection.HTTPSConnection):
    pass


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _Connection


class _TLSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _TLSConnection


def connections(base_url: str, timeout: float) -> urllib3.PoolManager:
    """Connections to the server at `base_url`, through the proxy that the environment names for it.

    Whoever sends a key on them does so without following redirects.
    """
    url = urllib3.util.parse_url(base_url)
    proxies = getproxies()
    # What is meant for this machine may be unencrypted, and must not leave it.
    direct = is_local(url.host) or proxy_bypass(url.host or "")
    proxy = None if direct else proxies.get(url.scheme or "", proxies.get("all"))
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(timeout, CONNECT_TIMEOUT), read=timeout),
        "retries": False,
        "maxsize": MAX_CONNECTIONS,
        "block": True,  # more threads than connections take turns
    }
    if url.scheme == "https":
        options["ssl_context"] = _tls()
    if not proxy:
        pool = urllib3.PoolManager(**options)
    else:
        login = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        pool = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return pool


@cache
def _tls() -> ssl.SSLContext:
    """What connections are verified against; loading the certificates takes longer than many a request."""
    return ssl.create_default_context(
        cafile=os.environ.get("SSL_CERT_FILE", certifi.where()), capath=os.environ.get("SSL_CERT_DIR")
    )
