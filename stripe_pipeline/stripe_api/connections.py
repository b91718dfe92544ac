"""HTTP connections to Stripe: pools, TLS, proxies, and the time limit of one request.

This module transports bytes. Choosing and retrying requests belongs to `client`.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Self
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

import certifi
import urllib3

from stripe_pipeline.addresses import is_local
from stripe_pipeline.errors import SettingsError

CONNECT_TIMEOUT = 10.0
MAX_CONNECTIONS = 32
_CERT_FILE = "SSL_CERT_FILE"
_CERT_DIR = "SSL_CERT_DIR"


class TimeLimit:
    """Shuts the connection of the request that this thread sends once `seconds` have passed.

    Socket timeouts only detect silence: a peer that sends a byte now and then never triggers one.
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
            # The connection drops its socket when it hands the socket to its last answer.
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
                    # Not the method of an SSL socket, because another thread is reading.
                    socket.socket.shutdown(plain, socket.SHUT_RDWR)


class _Connection(urllib3.connection.HTTPConnection):
    """Registers itself with the current request's time limit."""

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

    Callers that send a key must not follow redirects. Raises `SettingsError` if the environment names an unusable
    proxy or unusable certificates.
    """
    url = urllib3.util.parse_url(base_url)
    # Requests to this machine may be unencrypted, and must not leave it.
    direct = is_local(url.host) or proxy_bypass(url.host or "")
    proxy = None if direct else _proxy_for(url.scheme or "")
    options: dict[str, Any] = {
        "timeout": urllib3.Timeout(connect=min(timeout, CONNECT_TIMEOUT), read=timeout),
        "retries": False,
        "maxsize": MAX_CONNECTIONS,
        "block": True,  # more threads than connections take turns
    }
    if url.scheme == "https":
        options["ssl_context"] = _tls(os.environ.get(_CERT_FILE) or None, os.environ.get(_CERT_DIR) or None)
    if not proxy:
        pool = urllib3.PoolManager(**options)
    else:
        login = urllib3.util.parse_url(proxy).auth
        headers = urllib3.make_headers(proxy_basic_auth=unquote(login)) if login else None
        pool = urllib3.ProxyManager(proxy, proxy_headers=headers, **options)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TLSPool}
    return pool


def _proxy_for(scheme: str) -> str | None:
    """The address of the proxy for URLs of this scheme, or None. Raises `SettingsError` if the proxy is not
    usable."""
    proxies = getproxies()
    name = f"{scheme}_proxy" if scheme in proxies else "all_proxy"
    proxy = proxies.get(scheme, proxies.get("all"))
    if not proxy:
        return None
    try:
        parts = urllib3.util.parse_url(proxy)
    except urllib3.exceptions.LocationParseError:
        parts = urllib3.util.Url()
    if parts.scheme not in ("http", "https") or not parts.host:
        # The value may contain a password anywhere.
        source = next((variable for variable in (name, name.upper()) if os.environ.get(variable)), "The system's proxy")
        raise SettingsError(
            f"{source} is not the address of an http or https proxy",
            "Give an address like http://proxy.example.com:3128, or unset it; hosts listed in NO_PROXY use no proxy",
        )
    return proxy


@cache
def _tls(file: str | None, folder: str | None) -> ssl.SSLContext:
    """The certificates that verify connections; loading the certificates takes longer than many requests.

    `file` replaces those of the certifi package; `folder` has additional ones. Raises `SettingsError`.
    """
    remedy = "Correct it, or unset it to use the certificates of the certifi package"
    if folder and not any(Path(part).is_dir() for part in folder.split(os.pathsep)):
        raise SettingsError(f"{_CERT_DIR} names {folder}, which is not a folder", remedy)
    try:
        return ssl.create_default_context(cafile=file or certifi.where(), capath=folder)
    except ssl.SSLError:
        if not file:
            raise
        raise SettingsError(f"{_CERT_FILE} names {file}, which holds no certificates (PEM)", remedy) from None
    except OSError as error:
        if not file:
            raise
        raise SettingsError(f"{_CERT_FILE} names {file}, which cannot be read ({error.strerror})", remedy) from None
