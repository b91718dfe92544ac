"""A launcher that starts each run on a host of its own, as Dagster's launchers for Kubernetes and Docker do."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg

# The arguments of the command that carries out one run, which Dagster's own launchers make in the same way: Dagster
# exports no name for these.
from dagster._grpc.types import ExecuteRunArgs

from stripe_pipeline.cli.project import make_project
from tests.deploy.parts import hiding, may_hide_folders


class HostPerRun(dg.DefaultRunLauncher):
    """`hosts` is the folder in which each run gets its host, an empty folder with `settings` as the settings file;
    `variables` are the environment of a run."""

    def __init__(self, hosts: str, settings: str, variables: Mapping[str, str], inst_data: Any = None) -> None:
        super().__init__(inst_data)
        self._hosts, self._settings, self._variables = Path(hosts), settings, variables

    @classmethod
    def config_type(cls) -> Any:
        return {"hosts": str, "settings": str, "variables": dict}

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Mapping[str, Any]) -> Self:
        return cls(**config_value, inst_data=inst_data)

    def launch_run(self, context: Any) -> None:
        """Start a process that sees no folder of another host."""
        run = context.dagster_run
        host = self._hosts / f"run-{run.run_id}"
        make_project(host)
        (host / "stripe_pipeline.yaml").write_text(self._settings)
        origin = context.job_code_origin
        assert origin
        command = ExecuteRunArgs(origin, run.run_id, self._instance.get_ref()).get_command_args()
        others = [f"{folder}" for folder in self._hosts.iterdir() if folder.is_dir() and folder != host]
        with (self._hosts / f"{host.name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*(hiding(others) if may_hide_folders() else ()), *command],
                cwd=host,
                env={**self._variables, "HOME": f"{host}", "STRIPE_PIPELINE_DATA": f"{host / 'data'}"},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self._hosts / f"{host.name}.pid").write_text(f"{process.pid}")

    def terminate(self, run_id: str) -> bool:
        """Runs of the tests are killed instead."""
        return False
