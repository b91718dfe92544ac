"""The parts of a deployment as `deploy/compose.yaml` describes them, and processes that run one of them on this
machine.

Tests of the deployment's files and of a whole deployment belong in the modules beside this one.
"""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
PROGRAMS = Path(sys.executable).parent


def compose() -> dict[str, Any]:
    """The compose file, with its aliases and merge keys resolved."""
    content: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return content


def command_of(part: str) -> list[str]:
    """The command of a part in the compose file."""
    return [str(word) for word in compose()["services"][part]["command"]]


def variables_of(part: str) -> set[str]:
    """The environment variables that the compose file gives to a part."""
    return set(compose()["services"][part]["environment"])


@functools.cache
def may_hide_folders() -> bool:
    """Whether processes can be started that see other folders than this one."""
    unshare = shutil.which("unshare") if os.geteuid() == 0 else None
    return bool(unshare and subprocess.run([unshare, "--mount", "true"], capture_output=True).returncode == 0)


def hiding(folders: list[str]) -> list[str]:
    """The beginning of a command that sees empty folders in place of these, and cannot write there."""
    hide = "; ".join(f"mount -t tmpfs -o ro none '{folder}'" for folder in folders)
    return ["unshare", "--mount", "sh", "-c", f'set -e; {hide}; exec "$@"', "sh"]


def kill_session(leader: int) -> None:
    """Kill all processes of a session, as if their host had lost its power."""
    listed = subprocess.run(["ps", "-eo", "pid=,sess="], capture_output=True, text=True, check=True).stdout
    for pid, session in map(str.split, listed.splitlines()):
        if int(session) == leader:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


class Part:
    """A part that runs on a host of its own: a folder, and the variables that the compose file gives to the part.

    `replaced` are words of the command and what stands there on this machine: ports, and paths in the image. `values`
    are the values of variables, `of_image` those that the image sets.
    """

    def __init__(
        self, name: str, host: Path, replaced: dict[str, str], values: dict[str, str], of_image: dict[str, str]
    ) -> None:
        self.name, self.host = name, host
        words = {"0.0.0.0": "127.0.0.1"} | replaced
        self._command = [words.get(word, word) for word in command_of(name)]
        self._environment = {
            "PATH": f"{PROGRAMS}:/usr/bin:/bin",
            "PYTHONPATH": os.environ.get("PYTHONPATH", ""),
            "HOME": f"{host}",
            **of_image,
            **{variable: values[variable] for variable in variables_of(name) if variable in values},
        }
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def log(self) -> Path:
        """What the part has printed."""
        return self.host.with_name(f"{self.host.name}-{self.name}.log")

    def start(self, **variables: str) -> None:
        """Start the part in a session of its own. If this user may hide folders, it cannot see those of other hosts."""
        others = [f"{folder}" for folder in self.host.parent.iterdir() if folder.is_dir() and folder != self.host]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*(hiding(others) if may_hide_folders() else ()), *self._command],
                cwd=self.host,
                env=self._environment | variables,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def kill(self) -> None:
        """Kill the part with everything it has started."""
        if self._process:
            kill_session(self._process.pid)
            self._process.wait()
            self._process = None
