"""The official Stripe CLI: installed on first use, run against an emulator."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock
import pytest

_VERSION = "1.52.0"
_FOLDER = Path(sys.prefix) / "stripe-cli"


def install() -> Path:
    """The path of the CLI, which is installed beside this environment's packages if it is missing there.

    Without npm, the test is skipped, or fails in CI."""
    binary = _FOLDER / "node_modules" / ".bin" / "stripe"
    package = _FOLDER / "node_modules" / "@stripe" / "cli" / "package.json"
    _FOLDER.mkdir(exist_ok=True)
    # Tests that run beside each other install it once.
    with filelock.FileLock(_FOLDER / "install.lock", timeout=270):
        if binary.exists() and json.loads(package.read_text())["version"] == _VERSION:
            return binary
        npm = shutil.which("npm")
        if npm is None:
            reason = "npm is not installed, so the Stripe CLI cannot be installed"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        wanted = f"@stripe/cli@{_VERSION}"
        command = [npm, "install", "--prefix", str(_FOLDER), "--no-save", "--no-audit", "--no-fund", wanted]
        done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stderr
    return binary


@dataclass(frozen=True)
class StripeCli:
    """The CLI with an emulator's address and a home of its own."""

    binary: Path
    url: str
    home: Path

    def run(self, *arguments: str, key: str) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return subprocess.run(
            self._command(*arguments, key=key),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env=self._environment,
            stdin=subprocess.DEVNULL,
        )

    def signing_secret(self, *, key: str) -> str:
        """The secret that `stripe listen` signs with."""
        printed = self.run("listen", "--skip-update", "--print-secret", key=key)
        assert printed.returncode == 0, printed.stderr
        return printed.stdout.strip()

    @contextlib.contextmanager
    def listening(self, *, forward_to: str, key: str) -> Iterator[None]:
        """`stripe listen` while the block runs. The command needs some time before it forwards events."""
        listen = ("listen", "--skip-update", "--all-snapshot", "--no-wss", "--forward-to", forward_to)
        # A session of its own: the CLI is started by a script that would not pass signals on.
        process = subprocess.Popen(
            self._command(*listen, key=key),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=self._environment,
            start_new_session=True,
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(10)

    def _command(self, *arguments: str, key: str) -> list[str]:
        return [str(self.binary), *arguments, "--api-base", self.url, "--api-key", key, "--color", "off"]

    @property
    def _environment(self) -> dict[str, str]:
        """The environment variables that the CLI gets."""
        return {"HOME": str(self.home), "PATH": os.environ["PATH"], "STRIPE_CLI_TELEMETRY_OPTOUT": "1"}
