"""Where one pipeline takes its keys, its data folder and its settings from.

`environment` and `loading` read the values; `assets.keys` has the names by which Dagster knows a pipeline.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, StripePipelineError
from stripe_pipeline.settings.environment import api_base, inbox_url, load_keys
from stripe_pipeline.settings.loading import DEFAULT_FILE, load_settings, settings_of
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.keys import ApiKey

NAME = "stripe"
"""The name of the pipeline that the command line works with, and whose variables begin with `STRIPE_`."""
_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", re.ASCII)
_STANDARD = f"{NAME.upper()}_"
_VARIABLE = re.compile(rf"\b{_STANDARD}(?=[A-Z])", re.ASCII)


def checked_name(name: str) -> str:
    """The name of a pipeline; raises `SettingsError` if names of variables and jobs cannot be made of `name`."""
    if not _NAME.fullmatch(name):
        raise SettingsError(
            f"{name!r} is not a name of a pipeline",
            "Write lower-case letters, digits and single underscores, beginning with a letter, such as stripe_eu",
        )
    if name.endswith("_test"):
        raise SettingsError(
            f"The pipeline cannot have the name {name}: {name.upper()}_API_KEY holds the test key of another pipeline",
            "Choose a name that does not end in _test",
        )
    return name


@dataclass(frozen=True)
class Configuration:
    """The sources of one pipeline: the environment, unless the caller gives a folder, settings or other variables.

    Nothing is read before it is needed, and a settings file is read again by each run.
    """

    name: str = NAME
    data_folder: str | Path | None = None
    """By default the folder that the environment names, else `data`, or `data-<name>` for another name."""
    given_settings: Settings | Mapping[str, Any] | str | Path | None = None
    """The settings, or the file that holds them; by default the file that the environment names, else
    `stripe_pipeline.yaml`, or `<name>_pipeline.yaml` for another name."""
    given_variables: Mapping[str, str] | None = field(default=None, repr=False)  # may hold keys
    """Values of the variables by their standard names, such as `STRIPE_API_KEY`, instead of the process's."""

    def __post_init__(self) -> None:
        checked_name(self.name)

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables by their standard names: `STRIPE_API_KEY` of the pipeline `stripe_eu` is the value
        of `STRIPE_EU_API_KEY`."""
        if self.given_variables is not None:
            return self.given_variables
        if self.name == NAME:
            return os.environ
        own = f"{self.name.upper()}_"
        return {
            f"{_STANDARD}{variable.removeprefix(own)}": value
            for variable, value in os.environ.items()
            if variable.startswith(own)
        }

    def settings(self) -> Settings:
        """The settings; raises `SettingsError`."""
        given = self.given_settings
        with self.errors():
            if isinstance(given, Settings):
                return given
            if isinstance(given, Mapping):
                return settings_of(given)
            if given is not None:
                return load_settings({"STRIPE_PIPELINE_CONFIG": str(given)})
            return load_settings(
                self.variables, default=DEFAULT_FILE if self.name == NAME else f"{self.name}_pipeline.yaml"
            )

    @property
    def folder(self) -> DataFolder:
        """The data folder."""
        if self.data_folder is not None:
            return DataFolder.at(Path(self.data_folder).expanduser().absolute(), self.variables)
        return DataFolder.from_environment(self.variables, default="data" if self.name == NAME else f"data-{self.name}")

    def keys(self) -> tuple[ApiKey, ...]:
        """The API keys; raises `SettingsError`."""
        return load_keys(self.variables)

    def base_url(self) -> str:
        """The address of the API; raises `SettingsError`."""
        return api_base(self.variables)

    def inbox_url(self) -> str | None:
        """The database of the inbox; None for the data folder."""
        return inbox_url(self.variables)

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Let errors name the variables of this pipeline: the code that raises the errors only knows the standard
        names."""
        try:
            yield
        except StripePipelineError as error:
            if self.name != NAME and self.given_variables is None:
                own = f"{self.name.upper()}_"
                error.what, error.remedy = (_VARIABLE.sub(own, text) for text in (error.what, error.remedy))
                error.args = (error.what, error.remedy)
            raise
