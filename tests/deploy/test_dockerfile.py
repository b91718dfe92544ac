"""The image: each instruction of `deploy/Dockerfile` is carried out in a folder of this machine.

The base image is this machine's Python. Absolute paths lead into the folder, and the image's user is this user.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.deploy.parts import DEPLOY, command_of

REPOSITORY = DEPLOY.parent
USER = "10001"
_SYSTEM = ("/usr/local/bin", "/usr/bin", "/bin", "/usr/sbin/nologin")
"""Paths in the Dockerfile that are the same on every machine."""


def instructions() -> Iterator[tuple[str, str]]:
    """The instructions of the Dockerfile with their arguments, without comments."""
    text = "\n".join(line for line in (DEPLOY / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if line.strip():
            name, _, arguments = line.partition(" ")
            yield name, arguments.strip()


@dataclass
class Image:
    """What the instructions have made so far, in `root`."""

    root: Path
    folder: Path = Path("/")
    environment: dict[str, str] = field(default_factory=dict)
    ran: list[str] = field(default_factory=list)

    def place(self, text: str) -> str:
        """A text of the Dockerfile with paths of this machine, and this user in place of the image's."""
        text = re.sub(
            r"(?<![\w./-])/[a-z][\w./-]*",
            lambda path: path[0] if path[0] in _SYSTEM else f"{self.root}{path[0]}",
            text,
        )
        return text.replace(f"-o {USER} -g {USER}", f"-o {os.getuid()} -g {os.getgid()}")

    def carry_out(self, name: str, arguments: str) -> None:
        """Carry out one instruction."""
        match name:
            case "FROM":
                self.folder = self.root
                self.environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": f"{self.root}"}
                for folder in ("etc", "srv", "opt"):
                    (self.root / folder).mkdir(parents=True, exist_ok=True)
            case "WORKDIR":
                self.folder = Path(self.place(arguments))
                self.folder.mkdir(parents=True, exist_ok=True)
            case "ENV":
                for assignment in shlex.split(arguments):
                    variable, _, value = assignment.partition("=")
                    self.environment[variable] = ":".join(self.place(part) for part in value.split(":"))
            case "COPY":
                self.copy([word for word in arguments.split() if not word.startswith("--chown")])
            case "RUN":
                self.run(arguments)
            case "USER" | "VOLUME" | "CMD":
                pass
            case _:
                pytest.fail(f"{name} is not known here")

    def copy(self, words: list[str]) -> None:
        """Copy files of the repository; what another stage made is there already."""
        *sources, target = words
        if sources[0] == "--from=build":
            assert sources[1] == target
            return
        for source in sources:
            to = Path(self.place(target))
            if (REPOSITORY / source).is_dir():
                shutil.copytree(REPOSITORY / source, to, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                to.mkdir(parents=True, exist_ok=True)
                shutil.copy(REPOSITORY / source, to)

    def run(self, command: str) -> None:
        """Run a command as the image's shell does; it must succeed."""
        ended = subprocess.run(
            ["/bin/sh", "-c", self.place(command)],
            cwd=self.folder,
            env=self.environment | pip_settings(),
            capture_output=True,
            text=True,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
        self.ran.append(command)


def pip_settings() -> dict[str, str]:
    """Where this machine's pip gets packages. Compiling all of them takes as long as the rest."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")} | {"PIP_NO_COMPILE": "1"}


def ignored() -> set[str]:
    """What the build may copy, by deploy/Dockerfile.dockerignore."""
    lines = (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()
    return {line[1:] for line in lines if line.startswith("!")}


def test_the_build_gets_what_it_copies_and_nothing_else() -> None:
    copied = {
        word
        for name, arguments in instructions()
        if name == "COPY" and "--from" not in arguments
        for word in [word for word in arguments.split() if not word.startswith("--")][:-1]
    }
    assert copied == ignored()


def test_the_image_runs_as_a_user_without_privileges_and_has_no_secret() -> None:
    [user] = [arguments for name, arguments in instructions() if name == "USER"]
    assert user == f"{USER}:{USER}"
    assert not [arguments for name, arguments in instructions() if name == "ARG"]
    variables = {
        assignment.partition("=")[0]
        for name, arguments in instructions()
        if name == "ENV"
        for assignment in shlex.split(arguments)
    }
    assert variables == {"PATH", "DAGSTER_HOME", "STRIPE_PIPELINE_DATA"}


@pytest.mark.thorough
@pytest.mark.timeout(900)
def test_every_step_of_the_build_succeeds_and_the_parts_find_their_programs(tmp_path: Path) -> None:
    image = Image(tmp_path)
    for name, arguments in instructions():
        image.carry_out(name, arguments)
    assert image.ran == [arguments for name, arguments in instructions() if name == "RUN"]

    programs = tmp_path / "opt" / "stripe_pipeline" / "bin"
    for part in ("code-server", "webserver", "daemon", "webhooks"):
        assert (programs / command_of(part)[0]).is_file()
    project = tmp_path / "srv" / "stripe_pipeline"
    assert {file.name for file in project.iterdir()} == {"dagster.yaml", "workspace.yaml", "stripe_pipeline.yaml"}
    assert {file.name for file in (tmp_path / "srv" / "dagster").iterdir()} == {"dagster.yaml", "workspace.yaml"}
    # Dagster's settings are valid there, and the clients of Postgres are installed.
    for imported in ("dagster_postgres", "psycopg2", "psycopg", "stripe_pipeline.definitions"):
        image.run(f"python -c 'import {imported}'")
    ended = subprocess.run(
        [f"{programs / 'stripe-pipeline'}", "sync"],
        cwd=project,
        env=image.environment
        | {"DAGSTER_POSTGRES_URL": "postgresql+psycopg2://u@127.0.0.1:1/d", "STRIPE_API_KEY": "rk_test_of_the_image"},
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 1
    assert "Dagster's storage failed" in ended.stderr
    assert "Connection refused" in ended.stderr
    assert f"Check the storage that dagster.yaml in {tmp_path / 'srv' / 'dagster'} names" in ended.stderr
