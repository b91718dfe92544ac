"""The project folder that commands work in: finding it, and the command that makes one, `init`.

`project_files` holds the texts of the files; `app` enters the folder.
"""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Annotated

import typer
import yaml

from stripe_pipeline.cli.terminal import out
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.project_files import template
from stripe_pipeline.storage_errors import reason, remedy

_MODULE = "stripe_pipeline.definitions"
_WORKSPACE = f"""\
# The code that Dagster loads. The schedules and the sensor keep their state under the name of the location.
load_from:
  - python_module:
      module_name: {_MODULE}
      location_name: stripe_pipeline
"""
_IGNORED = """\
# Keys, data and Dagster's history.
.env
.dagster*
data/
"""


def find_project() -> Path | None:
    """The project folder: the working directory or the nearest parent that is one, else the clone that the command was
    installed from."""
    folder = Path.cwd()
    candidates = [folder, *folder.parents, Path(__file__).resolve().parents[2]]
    return next((candidate for candidate in candidates if _is_project(candidate)), None)


def _is_project(folder: Path) -> bool:
    """Whether the folder has `dagster.yaml` and our code location; a parent folder may be another Dagster project."""
    return (folder / "dagster.yaml").is_file() and (_declares(folder / "pyproject.toml") or _loads(folder))


def _declares(pyproject: Path) -> bool:
    """Whether this is the pyproject.toml of a clone."""
    try:
        declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))
        return bool(declared["tool"]["dg"]["project"]["root_module"] == "stripe_pipeline")
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _loads(folder: Path) -> bool:
    """Whether the folder's workspace.yaml names our code location, as `init` writes it."""
    try:
        workspace = yaml.safe_load((folder / "workspace.yaml").read_text(encoding="utf-8"))
        return any(entry["python_module"]["module_name"] == _MODULE for entry in workspace["load_from"])
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError):
        return False


def make_project(folder: Path) -> list[str]:
    """Write the files of a project into `folder`, which is created if needed; returns their names.

    Raises `SettingsError` if one of them exists, or if the folder cannot be written; nothing is written then.
    """
    texts = {
        "dagster.yaml": template("dagster.yaml"),
        "workspace.yaml": _WORKSPACE,
        "stripe_pipeline.yaml": template("stripe_pipeline.yaml"),
        ".env": template(".env.example"),
        ".gitignore": _IGNORED,
    }
    if existing := [name for name in texts if (folder / name).exists()]:
        raise SettingsError(
            f"{folder} already has {', '.join(existing)}",
            "Name another folder, as in `stripe-pipeline init stripe`, or move these files away",
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            # Keys will be in .env: nobody else may read it.
            mode = 0o600 if name == ".env" else 0o644
            with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
                file.write(text)
    except OSError as error:
        raise SettingsError(f"{folder} cannot be written ({reason(error)})", remedy(error, folder)) from None
    return list(texts)


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="FOLDER", help="Folder of the project; created if needed.")
    ] = Path(),
) -> None:
    """Make a project folder, with Dagster's settings and the pipeline's.

    Writes dagster.yaml, workspace.yaml, stripe_pipeline.yaml, .env and .gitignore, and never overwrites a file.
    """
    here = Path.cwd()
    project = folder.expanduser().absolute()
    names = make_project(project)
    out.print(f"Made {', '.join(names)} in {project}.\n")
    out.print("Next:", style="bold")
    if project != here:
        out.print(f"  cd {folder}")
    out.print("  Put a restricted key into .env, as STRIPE_API_KEY=rk_live_…; it may read Balance Transaction Sources,")
    out.print("  Charges and Refunds, Customers, Disputes, Events, Invoices and PaymentIntents.")
    out.print("  stripe-pipeline check    shows what the key may read, and how long loading will take")
    out.print("  stripe-pipeline dev      loads the history and starts Dagster")
    out.print("To try everything without an account: stripe-pipeline demo")
