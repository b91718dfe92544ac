"""The same 10,000 charges, read by this project and two other tools, each as its users would, in separate processes.

Each script here takes the server's address and a folder, and leaves its output there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
import venv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.backfill import evenly
from benchmarks.bulk import Serving, serving
from benchmarks.measuring import LIMIT, Options, Row, new_folder, peak_memory

CHARGES = 10_000
REPOSITORY = Path(__file__).parent.parent.parent
ENVIRONMENTS = REPOSITORY / ".venv-peers"
PINNED: Mapping[str, Sequence[str]] = {
    "dlt": ("dlt[duckdb]==1.31.0", "duckdb==1.5.6"),
    "tap_stripe": ("tap-stripe==3.3.0", "setuptools<81"),
}
"""The packages installed for each tool; setuptools because older packages read versions with it."""

_TITLES = {
    "ours": "stripe_pipeline, into the published DuckDB file",
    "dlt": "dlt 1.31.0, rest_api source, into DuckDB",
    "tap_stripe": "tap-stripe 3.3.0, into JSON lines",
}
_INSTALL_SECONDS = 300.0
_RUN_SECONDS = 300.0


def peers(options: Options) -> list[Row]:
    """One row for each tool."""
    rows = []
    for name, title in _TITLES.items():
        label = f"{CHARGES:,} charges, 100 ms ± 20 % a request: {title}"
        try:
            python = Path(sys.executable) if name == "ours" else _environment(name)
        except (OSError, subprocess.SubprocessError) as error:
            rows.append(Row.failure(label, f"could not be installed ({type(error).__name__})"))
            continue
        with serving(Serving({"charges": [evenly(CHARGES)]})) as stripe, new_folder(options) as folder:
            took = _run(python, Path(__file__).parent / f"{name}_charges.py", stripe.url, folder)
            read = len([path for _, path, status in stripe.requests() if path == "/v1/charges" and status == 200])
        if took.exit_status or read < CHARGES / 100:
            rows.append(Row.failure(label, f"exit status {took.exit_status} after {read} pages: {took.last}"))
            continue
        speed = CHARGES / took.seconds
        rows.append(
            Row(
                label,
                "for comparison",
                f"{speed:,.0f} objects/s, {speed / LIMIT:.0%} of the endpoint's limit,"
                f" {took.cpu / CHARGES * 1e6:,.0f} µs CPU an object, {took.peak:.0f} MB",
            )
        )
    return rows


def _environment(name: str) -> Path:
    """The Python of an environment with the pinned packages; created once."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    installed = folder / "installed"
    pinned = "\n".join(PINNED[name])
    if not installed.exists() or installed.read_text() != pinned:
        venv.create(folder, clear=True, with_pip=True)
        install = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED[name]]
        subprocess.run(install, check=True, timeout=_INSTALL_SECONDS, capture_output=True)
        installed.write_text(pinned)
    return python


@dataclass(frozen=True)
class _Took:
    """The cost of a process from its start to its end."""

    seconds: float
    cpu: float
    peak: float
    """MB."""
    exit_status: int
    last: str
    """The last line it printed."""


def _run(python: Path, script: Path, *arguments: object) -> _Took:
    log = ENVIRONMENTS / f"{script.stem}.log"
    log.parent.mkdir(exist_ok=True)
    began = time.monotonic()
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "RUNTIME__DLTHUB_TELEMETRY": "false"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(python), str(script), *map(str, arguments)], stdout=output, stderr=output, env=environment
        )
        peak = 0.0
        while True:
            peak = max(peak, peak_memory(process.pid))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - began > _RUN_SECONDS:
                process.kill()
            time.sleep(0.02)
    process.returncode = os.waitstatus_to_exitcode(status)
    lines = log.read_text(errors="replace").strip().splitlines()
    return _Took(
        seconds=time.monotonic() - began,
        cpu=usage.ru_utime + usage.ru_stime,
        peak=peak or usage.ru_maxrss / 1000,
        exit_status=process.returncode,
        last=lines[-1] if lines else "",
    )
