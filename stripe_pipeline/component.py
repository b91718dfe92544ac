"""The Dagster component `StripeWarehouse`: one pipeline of a project, with its settings as attributes in YAML.

`definitions` builds what the component consists of, `settings.model` declares the settings.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster.components import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, ConfigDict, Field, create_model, model_validator

from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.project_files import template
from stripe_pipeline.settings.configuration import NAME, checked_name
from stripe_pipeline.settings.loading import settings_of
from stripe_pipeline.settings.model import Settings

_TYPE = "stripe_pipeline.StripeWarehouse"
_OWN: dict[str, dict[str, Any]] = {
    "name": {
        "type": "string",
        "default": NAME,
        "description": "The name of the pipeline, if the project has several: the variables of `stripe_eu` begin with"
        " STRIPE_EU_, and its jobs with stripe_eu_.",
    },
    "key_prefix": {
        "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}],
        "description": "The first part or parts of all asset keys; by default none for the pipeline `stripe`, and the"
        " name of any other pipeline.",
    },
    "data_folder": {
        "type": "string",
        "description": "The folder of everything that is stored, relative to the project; by default the one that"
        " STRIPE_PIPELINE_DATA names.",
    },
}
"""The attributes that are not settings, with their JSON schemas."""
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}


def _inlined(schema: Any, definitions: Mapping[str, Any]) -> Any:
    """A JSON schema without references, because other schemas contain this one, that allows templates."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inlined(definitions[schema["$ref"].rpartition("/")[2]], definitions)
        inlined = {key: _inlined(value, definitions) for key, value in schema.items()}
        is_text = schema.get("type") not in ("boolean", "integer", "number")
        return inlined if is_text else {"anyOf": [inlined, _TEMPLATE]}
    return [_inlined(item, definitions) for item in schema] if isinstance(schema, list) else schema


def _describe_attributes(schema: dict[str, Any]) -> None:
    """Complete the JSON schema of the attributes."""
    settings = Settings.model_json_schema()
    declared = _inlined(settings["properties"], settings.get("$defs", {}))
    # A key without a value, below which everything is commented out, has its default.
    schema["properties"] = _OWN | {name: {"anyOf": [values, {"type": "null"}]} for name, values in declared.items()}


class _Attributes(dg.Model):
    """The attributes as YAML has them: any value may hold a template."""

    model_config = ConfigDict(extra="forbid", json_schema_extra=_describe_attributes)

    @model_validator(mode="after")
    def _check(self) -> Self:
        """Validate what does not depend on templates, so that errors name the line of the attributes."""
        given = self.model_dump(exclude_unset=True)
        if not _has_template(given):
            try:
                _checked(given)
            except SettingsError as error:
                raise ValueError(str(error)) from None
        return self


_FIELDS: dict[str, Any] = {name: (Any, Field(default=None)) for name in (*_OWN, *Settings.model_fields)}
Attributes: type[BaseModel] = create_model("StripeWarehouseAttributes", __base__=_Attributes, **_FIELDS)
"""The model of the attributes: `name`, `key_prefix`, `data_folder` and every setting."""


def _has_template(value: object) -> bool:
    if isinstance(value, Mapping):
        return any(map(_has_template, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_has_template, value))
    return isinstance(value, str) and "{{" in value


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of `StripeWarehouse` in attributes without templates; raises `SettingsError`."""
    arguments = {name: given[name] for name in _OWN if given.get(name) is not None}
    checked_name(str(arguments.get("name", NAME)))
    settings = settings_of({name: value for name, value in given.items() if name not in _OWN})
    return {**arguments, "settings": settings}


class _WarehouseScaffolder(Scaffolder[Any]):
    """Writes a `defs.yaml` with every setting, its default and what it means; or the same in Python."""

    def scaffold(self, request: ScaffoldRequest[Any]) -> None:
        """Write the file, or append to it."""
        if request.scaffold_format == "python":
            (request.target_path / "component.py").write_text(_IN_PYTHON, encoding="utf-8")
        elif request.append:
            with request.target_path.open("a", encoding="utf-8") as file:
                file.write(f"---\n{defs_yaml()}")
        else:
            (request.target_path / "defs.yaml").write_text(defs_yaml(), encoding="utf-8")


def defs_yaml() -> str:
    """The text of a `defs.yaml` with the default settings."""
    _, _, settings = template("stripe_pipeline.yaml").partition("\n\n")
    attributes = textwrap.indent(f"{_HEAD}\n{settings}", "  ", lambda line: bool(line.strip()))
    return f"type: {_TYPE}\n\nattributes:\n{attributes}"


_HEAD = """\
# Every attribute is optional; the values here are the defaults. An age is, for example, 36 months. The key is in the
# environment variable STRIPE_API_KEY, never in this file.

# For a second account: the variables of the pipeline stripe_eu begin with STRIPE_EU_, and its asset keys with
# stripe_eu, unless key_prefix says otherwise.
# name: stripe_eu
# key_prefix: [stripe, eu]

# The folder of everything that is stored, relative to the project. Without it, the one that STRIPE_PIPELINE_DATA names,
# else data.
# data_folder: data
"""
_IN_PYTHON = """\
import dagster as dg

from stripe_pipeline import StripeWarehouse


@dg.component_instance
def load(context: dg.ComponentLoadContext) -> StripeWarehouse:
    # The settings have the keys of stripe_pipeline.yaml.
    return StripeWarehouse(settings={"history": "24 months", "objects": {"payouts": {"enabled": True}}})
"""


@dg.scaffold_with(_WarehouseScaffolder)
@dataclass
class StripeWarehouse(dg.Component, dg.Resolvable):
    """Payments, invoices, customers and balance of one Stripe account in DuckDB, equal to Stripe.

    The attributes are the settings of stripe_pipeline.yaml, and `name`, `key_prefix` and `data_folder`. The Stripe key
    is in the environment variable STRIPE_API_KEY.
    """

    name: str = NAME
    key_prefix: str | Sequence[str] | None = None
    data_folder: str | Path | None = None
    settings: Settings | Mapping[str, Any] = field(default_factory=Settings)

    @classmethod
    def model(cls) -> type[BaseModel]:
        """The model of the attributes in YAML."""
        return Attributes

    @classmethod
    def resolve_from_model(cls, context: dg.ResolutionContext, model: BaseModel) -> StripeWarehouse:
        """The component with these attributes, their templates resolved; raises `SettingsError`."""
        return cls(**_checked(context.resolve_value(model.model_dump(exclude_unset=True))))

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """How lists of components describe this one."""
        return dg.ComponentTypeSpec(tags=["stripe", "duckdb"])

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """The assets, checks, jobs, schedules, sensor and resource of the pipeline; raises `SettingsError`."""
        folder = None if self.data_folder is None else context.project_root / Path(self.data_folder).expanduser()
        return build_defs(name=self.name, key_prefix=self.key_prefix, settings=self.settings, data_folder=folder)
