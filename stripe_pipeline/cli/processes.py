"""The processes that `demo` and `dev` start, and how they all end together.

`serve` decides which processes start, and prints.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from stripe_pipeline.errors import PortTaken, StripePipelineError

HOST = "127.0.0.1"
_GRACE = 15  # seconds; Dagster takes 3 to 8 to end its own processes
_POLL = 0.2
_LONGEST_LOG = 20_000_000  # bytes; an idle Dagster writes some 3 MB a day

# Runs in a child before it becomes the requested program; a `preexec_fn` could deadlock if the parent has threads.
# The child heeds interrupts even if the parent ignores them, as background processes of shells do. If the parent is
# killed and cannot end the child, Linux interrupts the child instead (PR_SET_PDEATHSIG, which is 1).
_BEGIN = (
    "import ctypes, os, signal, sys;"
    "signal.signal(signal.SIGINT, signal.SIG_DFL);"
    "sys.platform == 'linux' and ctypes.CDLL(None).prctl(1, signal.SIGINT);"
    "os.execv(sys.executable, [sys.executable, '-m', *sys.argv[1:]])"
)


class ProcessEnded(StripePipelineError):
    """A process that should keep running ended, or does not answer."""


def free_port() -> int:
    """A port of this machine that nothing listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def claim_port(port: int, *, option: str) -> None:
    """Raise `PortTaken`, which names `option`, if `port` cannot be listened on."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise PortTaken(
                f"Port {port} of {HOST} cannot be used ({error.strerror})", f"Name a free port with {option}"
            ) from None


@dataclass
class _Child:
    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Processes:
    """Child processes, each in a group of its own, that are all ended on the way out of the `with` block."""

    def __init__(self, logs: Path, *, stopping: Path | None = None) -> None:
        """`stopping` is a file that exists during the shutdown, for processes that would otherwise keep waiting."""
        self._logs = logs
        self._stopping = stopping
        self._children: list[_Child] = []

    def __enter__(self) -> Processes:
        if self._stopping:
            self._stopping.unlink(missing_ok=True)  # left by a killed process
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """End all processes and their children."""
        # A second Ctrl-C must not leave half of them running.
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            if self._stopping and self._children:
                self._stopping.touch()
            self._end_all()
        finally:
            if self._stopping:
                self._stopping.unlink(missing_ok=True)
            for number, handler in handlers.items():
                signal.signal(number, handler)

    def start(self, name: str, command: str) -> None:
        """Run `python -m command` in the background; its output goes to a file in the logs folder."""
        log = self._logs / f"{name.replace(' ', '-').lower()}.log"
        log.write_bytes(b"")
        with log.open("ab") as output:  # so that writing continues at the start after truncation
            process = subprocess.Popen(
                [sys.executable, "-c", _BEGIN, *command.split()],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(_Child(name, process, log))

    def check(self) -> None:
        """Raise `ProcessEnded`, which names the log, if one has ended."""
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise ProcessEnded(f"{child.name} ended by itself (exit status {status})", f"See its log, {child.log}")

    def wait_for(self, ready: Callable[[], bool], *, name: str, seconds: float) -> None:
        """Wait until `ready()`; raises `ProcessEnded` if a process ends meanwhile or the time is up."""
        end = time.monotonic() + seconds
        while not ready():
            self.check()
            if time.monotonic() > end:
                raise ProcessEnded(
                    f"{name} was not ready within {seconds:.0f} seconds", f"See the logs in {self._logs}"
                )
            time.sleep(_POLL)

    def watch(self) -> None:
        """Wait while all processes run, and keep their logs short; raises `ProcessEnded`."""
        while True:
            self.check()
            for child in self._children:
                _shorten(child.log)
            time.sleep(_POLL)

    def _end_all(self) -> None:
        # The last one first: it may need the earlier ones for its last work.
        for child in reversed(self._children):
            _signal(child, signal.SIGINT)
            try:
                child.process.wait(_GRACE)
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            # The processes that the child started and left behind.
            _signal(child, signal.SIGKILL)
        self._children.clear()


def _shorten(log: Path) -> None:
    """Rotate a log that has grown too long."""
    if log.stat().st_size > _LONGEST_LOG:
        shutil.copyfile(log, log.with_suffix(".before.log"))
        os.truncate(log, 0)


def _signal(child: _Child, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)
