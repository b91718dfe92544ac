"""Dagster's web server with the pipeline's code location, for tests of the UI."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import dagster as dg
import httpx

from stripe_pipeline.cli.processes import free_port

_STARTED_WITHIN = 120.0  # seconds, on a busy machine


class Webserver:
    """A running web server."""

    def __init__(self, url: str, http: httpx.Client) -> None:
        self.url = url
        self._http = http

    def query(self, text: str) -> dict[str, Any]:
        """The `data` of the answer to a GraphQL query."""
        answer = self._http.post(f"{self.url}/graphql", json={"query": text}).json()
        assert "errors" not in answer, answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data


@contextmanager
def webserver(instance: dg.DagsterInstance) -> Iterator[Webserver]:
    """Serves an instance that keeps its records in files (mark `dagster_files`), with the settings of the
    environment."""
    port = free_port()
    home = Path(instance.root_directory)
    command = [
        f"{Path(sys.executable).parent / 'dagster-webserver'}",
        *("-m", "stripe_pipeline.definitions", "-h", "127.0.0.1", "-p", f"{port}"),
    ]
    with (home / "webserver.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "DAGSTER_HOME": f"{home}"})
    url = f"http://127.0.0.1:{port}"
    try:
        with httpx.Client(timeout=60, trust_env=False) as http:
            end = time.monotonic() + _STARTED_WITHIN
            while not _answers(http, url):
                assert process.poll() is None, (home / "webserver.log").read_text()
                assert time.monotonic() < end, "the web server did not start"
                time.sleep(0.2)
            yield Webserver(url, http)
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def _answers(http: httpx.Client, url: str) -> bool:
    with suppress(httpx.TransportError):
        return http.get(f"{url}/server_info").is_success
    return False
