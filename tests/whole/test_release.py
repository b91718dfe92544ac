"""The wheel in an environment of its own, in an empty folder: what a user gets who has no clone."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from stripe_pipeline.cli.processes import free_port

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.thorough, pytest.mark.timeout(900), pytest.mark.xdist_group("release")]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source archive, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def command(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`stripe-pipeline` of the wheel, installed with the versions of the lock file."""
    folder = tmp_path_factory.mktemp("environment")
    # With hashes, pip would also want one of the wheel. Constraints cannot name extras.
    locked = re.findall(r"^([a-z0-9._-]+)(?:\[[a-z,]+\])?(==[^\\\n]*)", (ROOT / "requirements.lock").read_text(), re.M)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{name}{version.rstrip()}\n" for name, version in locked))
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True)
    [wheel] = built.glob("*.whl")
    pip = [str(folder / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "--constraint", str(constraints), str(wheel)], check=True, capture_output=True)
    return folder / "venv/bin/stripe-pipeline"


@pytest.fixture
def environment() -> dict[str, str]:
    """The environment without this clone and without an account."""
    unset = {"PYTHONPATH", "VIRTUAL_ENV", "DAGSTER_HOME", "PYTHONDONTWRITEBYTECODE"}
    return {name: value for name, value in os.environ.items() if not name.startswith("STRIPE_") and name not in unset}


def run(command: Path, *arguments: str, cwd: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run([command, *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=120)


def test_the_archive_and_the_wheel_hold_what_they_need_and_no_data(built: Path) -> None:
    [archive], [wheel] = built.glob("*.tar.gz"), built.glob("*.whl")
    assert archive.name.startswith("stripe_pipeline-0.2.0")
    with tarfile.open(archive) as opened:
        names = {name.partition("/")[2] for name in opened.getnames()}
    assert names >= {"dagster.yaml", "stripe_pipeline.yaml", ".env.example", "LICENSE", "README.md", "pyproject.toml"}
    assert not [name for name in names if name.split("/")[0] in (".env", ".venv", "data", ".dagster")]
    listed = subprocess.run([sys.executable, "-m", "zipfile", "-l", str(wheel)], capture_output=True, text=True)
    for needed in ("stripe_pipeline/cli/demo.yaml", "stripe_pipeline/objects/generated.json", "project/.env.example"):
        assert needed in listed.stdout


def test_init_makes_a_project_and_overwrites_nothing(
    command: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    outside = run(command, "check", cwd=tmp_path, env=environment)
    assert outside.returncode == 2
    assert "Run `stripe-pipeline init` to make one here" in outside.stderr
    assert run(command, "--help", cwd=tmp_path, env=environment).returncode == 0
    assert run(command, "demo", "--help", cwd=tmp_path, env=environment).returncode == 0
    assert list(tmp_path.iterdir()) == []
    made = run(command, "init", "shop", cwd=tmp_path, env=environment)
    assert made.returncode == 0, made.stderr
    assert "cd shop" in made.stdout
    shop = tmp_path / "shop"
    names = {".env", ".gitignore", "dagster.yaml", "stripe_pipeline.yaml", "workspace.yaml"}
    assert {file.name for file in shop.iterdir()} == names
    assert (shop / ".env").stat().st_mode & 0o777 == 0o600
    before = {file: file.read_bytes() for file in shop.iterdir()}
    again = run(command, "init", cwd=shop, env=environment)
    assert again.returncode == 2
    assert "already has dagster.yaml" in again.stderr
    assert {file: file.read_bytes() for file in shop.iterdir()} == before
    # The next step: without a key, the command says which variable to set.
    checked = run(command, "check", cwd=shop, env=environment)
    assert checked.returncode == 2
    assert "Set STRIPE_API_KEY" in checked.stderr


@pytest.fixture
def demo(command: Path, environment: dict[str, str], tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A demo that was started in an empty folder."""
    with (tmp_path / "out").open("w") as out:
        process = subprocess.Popen(
            [command, "demo", "--port", str(free_port())],
            cwd=tmp_path,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
    yield process
    if process.poll() is None:
        process.terminate()
        process.wait(60)


def test_the_demo_runs_in_an_empty_folder(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    output = tmp_path / "out"
    end = time.monotonic() + 400
    while "Ctrl-C stops everything" not in output.read_text():
        assert demo.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.5)
    assert f"Making a project in {tmp_path}" in output.read_text()
    with duckdb.connect(str(tmp_path / "data/stripe.duckdb"), read_only=True) as connection:
        [(payments,)] = connection.execute("SELECT count(*) FROM live.payments WHERE paid").fetchall()
    assert payments > 100
    demo.send_signal(signal.SIGINT)
    assert demo.wait(60) == 0, output.read_text()
