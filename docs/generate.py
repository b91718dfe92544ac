"""Writes the generated parts of `docs/tables.md` and `docs/settings.md` from the declarations in the code.

Run `python docs/generate.py`. With `--check` it writes nothing, names the stale pages and exits with status 1.

A generated part stands between `<!-- generated: name -->` and `<!-- end -->`; all other text is written in the pages
themselves. `descriptions.yaml` holds what the code does not say, such as the meaning of a setting; where it has no
entry, the docstring in the code is used. Anything declared appears on its page, described or not.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict
from pydantic.fields import FieldInfo

import stripe_pipeline
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import BOOKKEEPING, OBJECT_TYPES, ObjectType, children_of
from stripe_pipeline.settings.model import ObjectSettings, Settings
from stripe_pipeline.views.catalog import COMBINED, FOR_BI
from stripe_pipeline.views.columns import of_table, of_view
from stripe_pipeline.views.references import picture
from stripe_pipeline.views.view import BI, MODES, View
from stripe_pipeline.warehouse.pipeline_tables import PIPELINE_TABLES, PipelineTable
from stripe_pipeline.warehouse.warehouse import Warehouse

DOCS = Path(__file__).parent
PAGES = ("tables.md", "settings.md")
WIDTH = 118
STRIPE_REFERENCE = "https://docs.stripe.com/api"

_PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_VARIABLE = re.compile(r"(?:STRIPE|DAGSTER|SSL)_[A-Z_]+")
_PLACEHOLDERS = {"objects": "<table>", "custom_fields": "<column>"}


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SettingText(_Model):
    """What a key of the settings file does."""

    what: str
    type: str | None = None
    default: str | None = None
    example: str | None = None


class VariableText(_Model):
    """What an environment variable does."""

    what: str
    default: str = ""


class Descriptions(_Model):
    """The content of `descriptions.yaml`."""

    rows: Mapping[str, str]
    views: Mapping[str, str]
    settings: Mapping[str, SettingText]
    object_settings: Mapping[str, SettingText]
    environment: Mapping[str, VariableText]


@dataclass(frozen=True)
class Setting:
    """One key of the settings file, as its model declares it."""

    path: str
    type: str
    default: str
    docstring: str


@cache
def descriptions() -> Descriptions:
    """What the code does not say."""
    return Descriptions.model_validate(yaml.safe_load((DOCS / "descriptions.yaml").read_text(encoding="utf-8")))


def empty_warehouse() -> Warehouse:
    """A warehouse with default settings and without rows, of a data folder that is not made."""
    return Warehouse(DataFolder(DOCS / "data"), read_only=True)


# Tables


def overview() -> str:
    """A line for each object type that is not generated."""
    rows = []
    for object_type in OBJECT_TYPES.values():
        if object_type.generated:
            continue
        source = f"`{object_type.endpoint}`" if object_type.endpoint else f"read with `{object_type.parent}`"
        one_row = descriptions().rows.get(object_type.name, object_type.description)
        off = "; off by default" if object_type.optional else ""
        rows.append((f"[`{object_type.name}`](#{object_type.name})", f"{one_row}{off}", source))
    return _table(("table", "one row is", "source"), rows)


def bookkeeping() -> str:
    """The columns that the pipeline adds to every base table."""
    described = {column.name: column for column in of_table(OBJECT_TYPES["charges"], Settings())}
    rows = [
        (f"`{name}`", described[name].sql_type, described[name].description)
        for name in ("livemode", *(column.name for column in BOOKKEEPING))
    ]
    return _table(("column", "type", "description"), rows)


def object_types() -> str:
    """A section for each object type that is not generated."""
    return "\n\n".join(_object_type(declared) for declared in Settings().types.values() if not declared.generated)


def generated_types() -> str:
    """A line for each generated object type."""
    rows = []
    for object_type in OBJECT_TYPES.values():
        if not object_type.generated:
            continue
        if object_type.child_list:
            endpoint, listed = object_type.child_list.path, f"with each of `{object_type.parent}`"
        else:
            endpoint, listed = f"{object_type.endpoint}", "as a whole" if object_type.whole else "by `created`"
        events = _listed(object_type.event_types) or "none"
        secrets = _listed(object_type.secrets)
        rows.append((f"`{object_type.name}`", f"`{endpoint}`", listed, events, secrets))
    return _table(("table", "endpoint", "listed", "events", "not stored"), rows)


def _object_type(object_type: ObjectType) -> str:
    added = {column.name for column in BOOKKEEPING}
    rows = [
        (f"`{column.name}`", column.sql_type, column.description)
        for column in of_table(object_type, Settings())
        if column.name not in added
    ]
    facts = [_item(fact) for fact in _facts(object_type)]
    head = f"### `{object_type.name}`\n\n{_wrapped(object_type.description)}"
    return "\n\n".join([head, "\n".join(facts), _table(("column", "type", "description"), rows)])


def _facts(object_type: ObjectType) -> Iterator[str]:
    if one_row := descriptions().rows.get(object_type.name):
        yield f"One row is {one_row}."
    if object_type.optional:
        setting = f"objects: {{{object_type.name}: {{enabled: true}}}}"
        yield f"Off by default; the settings switch the type on: `{setting}`"
    if object_type.endpoint:
        reference = f"{STRIPE_REFERENCE}/{object_type.endpoint.removeprefix('/v1/')}/object"
        yield f"Endpoint: `{object_type.endpoint}` ([Stripe's reference]({reference}))"
    else:
        yield f"Parent: `{object_type.parent}`, {_carried(object_type)}"
    yield f"Key within a mode: {_listed(object_type.key)}"
    if object_type.parent_key:
        yield f"Reference to the parent: `{object_type.parent_key}`"
    if children := children_of(object_type):
        yield f"Children: {_listed(child.name for child in children)}"
    yield f"Default date: `{object_type.date_field}`"
    if object_type.event_types:
        yield f"Events that announce a change: {_listed(object_type.event_types)}"
    if not object_type.lists_all:
        yield "The lists do not hold every object: an object that is missing from its list stays"
    if object_type.deletable:
        yield "Objects can be deleted in Stripe"
    if object_type.announced_by:
        yield f"Events: none of its own; read again after events of {_listed(object_type.announced_by)}"
    if object_type.secrets:
        yield f"Secret, not stored unless the settings name it: {_listed(object_type.secrets)}"
    own = {column.name for column in of_table(object_type, Settings())}
    added = (column.name for column in of_view(object_type, Settings()) if column.name not in own)
    yield f"Added in the views: {_listed(added)}"


def _carried(child: ObjectType) -> str:
    """Where the objects of a child type come from, in words that follow their parent."""
    if child.embedded_in is None:
        assert child.child_list is not None
        return f"for each of which `{child.child_list.path}` is listed"
    on_request = ", requested with the parent" if child.on_request else ""
    return f"which carries these objects in {_listed(child.carried_in)}{on_request}"


def relations() -> str:
    """The declared references as a diagram."""
    return f"```mermaid\n{picture()}\n```"


def views() -> str:
    """The views that combine tables, each with its columns."""
    return "\n\n".join(_view(combined(Settings())) for combined in COMBINED)


def views_for_bi() -> str:
    """The views for BI tools, each with its columns."""
    return "\n\n".join(_view(for_bi(Settings())) for for_bi in FOR_BI)


def _view(view: View) -> str:
    rows = [(f"`{column.name}`", column.sql_type, column.description) for column in view.columns]
    text = f"{view.description} The view exists in `{view.schemas[0]}` and `{view.schemas[1]}`."
    # A finance view may have the name of a table, which has a heading, too.
    name = view.name if view.schemas == tuple(MODES) else f"{view.schemas[0]}.{view.name}"
    notes = "" if view.schemas == tuple(BI) else descriptions().views.get(view.name, "").strip()
    parts = [f"### `{name}`", _wrapped(text), notes]
    return "\n\n".join(filter(None, [*parts, _table(("column", "type", "description"), rows)]))


def pipeline() -> str:
    """The tables of the schema `pipeline`."""
    return "\n\n".join(_pipeline_table(name, table) for name, table in PIPELINE_TABLES.items())


def _pipeline_table(name: str, table: PipelineTable) -> str:
    rows = [(f"`{column}`", sql_type, text) for column, (sql_type, text) in table.columns.items()]
    head = f"### `pipeline.{name}`\n\n{_wrapped(table.description)}"
    return "\n\n".join([head, _table(("column", "type", "description"), rows)])


# Settings


def settings() -> str:
    """The keys at the top of the settings file."""
    return "\n\n".join(_setting(setting, descriptions().settings) for setting in keys_of(Settings))


def object_settings() -> str:
    """The keys of one object type."""
    above = f"objects.{_PLACEHOLDERS['objects']}."
    return "\n\n".join(_setting(setting, descriptions().object_settings, above) for setting in keys_of(ObjectSettings))


def _setting(setting: Setting, texts: Mapping[str, SettingText], above: str = "") -> str:
    text = texts.get(setting.path)
    what = text.what if text else setting.docstring
    type_ = (text and text.type) or setting.type
    default = (text and text.default) or setting.default
    parts = [
        f"### `{above}{setting.path}`",
        _wrapped(what),
        f"{_item(f'Type: {type_}')}\n{_item(f'Default: {default}')}",
    ]
    if text and text.example:
        parts.append(f"```yaml\n{text.example.strip()}\n```")
    return "\n\n".join(filter(None, parts))


def keys_of(model: type[BaseModel], above: str = "") -> Iterator[Setting]:
    """Every key of a settings model, those of nested models with their path.

    The keys of an object type are not among those of the whole file: they are listed by themselves.
    """
    docstrings = _docstrings(model)
    for name, field in model.model_fields.items():
        path = f"{above}{name}"
        annotation = _without_none(field.annotation)
        if _is_model(annotation):
            yield from keys_of(annotation, f"{path}.")
            continue
        yield Setting(path, _type_of(annotation, field), _default_of(field), docstrings.get(name, ""))
        if get_origin(annotation) is dict:
            value = get_args(annotation)[1]
            value = get_args(value)[0] if get_origin(value) is Annotated else value
            if _is_model(value) and value is not ObjectSettings:
                yield from keys_of(value, f"{path}.{_PLACEHOLDERS.get(name, '<name>')}.")


def _is_model(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def _without_none(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        others = [member for member in get_args(annotation) if member is not type(None)]
        return others[0] if len(others) == 1 else annotation
    return annotation


def _type_of(annotation: Any, field: FieldInfo) -> str:
    least = next((bound.ge for bound in field.metadata if hasattr(bound, "ge")), None)
    most = next((bound.le for bound in field.metadata if hasattr(bound, "le")), None)
    if annotation is bool:
        return "`true` or `false`"
    if annotation is int:
        if least is not None and most is not None:
            return f"integer from {least:,} to {most:,}"
        return "integer" if least is None else f"integer, at least {least:,}"
    if annotation is float and most == 1:
        return "percentage such as `80%`, or a number up to 1"
    if annotation is str:
        return "text"
    if isinstance(annotation, type) and issubclass(annotation, StrEnum):
        return _listed(annotation, last="or")
    if get_origin(annotation) is tuple:
        return "list of names"
    if get_origin(annotation) is dict:
        return "mapping"
    return ""


def _default_of(field: FieldInfo) -> str:
    value = field.default
    if value is None or value in ((), {}):
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value:.0%}`" if isinstance(value, float) else f"`{value}`"


def _docstrings(model: type[BaseModel]) -> Mapping[str, str]:
    """The text below each field of the class."""
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for field, text in zip(definition.body, definition.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id] = " ".join(str(text.value.value).split())
    return found


def environment() -> str:
    """The environment variables: those that are described, then any other that the code names."""
    texts = descriptions().environment
    names = [*texts, *(name for name in variables() if name not in texts)]
    given = ((name, texts.get(name, VariableText(what=""))) for name in names)
    return _table(
        ("variable", "default", "description"), [(f"`{name}`", text.default, text.what) for name, text in given]
    )


@cache
def variables() -> Sequence[str]:
    """The environment variables that the code names, in alphabetical order."""
    found = set()
    for file in Path(stripe_pipeline.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_bytes())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _VARIABLE.fullmatch(node.value):
                found.add(node.value)
    return sorted(found)


# Markdown


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        "| " + " | ".join(" ".join(cell.replace("|", r"\|").split()) for cell in line) + " |" for line in lines
    )


def _listed(names: Iterable[str], *, last: str = "") -> str:
    quoted = [f"`{name}`" for name in names]
    if last and len(quoted) > 1:
        return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"
    return ", ".join(quoted)


def _wrapped(text: str) -> str:
    return "\n\n".join(
        textwrap.fill(paragraph, WIDTH, break_long_words=False, break_on_hyphens=False)
        for paragraph in text.strip().split("\n\n")
    )


def _item(text: str) -> str:
    lines = textwrap.wrap(text, WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "- " + "\n  ".join(lines)


PARTS: Mapping[str, Callable[[], str]] = {
    "overview": overview,
    "bookkeeping": bookkeeping,
    "object types": object_types,
    "generated types": generated_types,
    "relations": relations,
    "views": views,
    "views for bi": views_for_bi,
    "pipeline": pipeline,
    "settings": settings,
    "object settings": object_settings,
    "environment": environment,
}
"""What the pages can show, by the name in their markers."""


def renewed(text: str) -> str:
    """A page with its generated parts as the code declares them now; raises `KeyError` for an unknown part."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def stale(folder: Path = DOCS) -> list[Path]:
    """The pages in `folder` that differ from what the code declares."""
    pages = [folder / name for name in PAGES]
    return [page for page in pages if page.read_text(encoding="utf-8") != renewed(page.read_text(encoding="utf-8"))]


def undescribed() -> list[str]:
    """What is declared and described neither in the code nor in `descriptions.yaml`, and what is described there and
    no longer declared."""
    texts = descriptions()
    shown = {
        f"rows.{name}": texts.rows.get(name, object_type.description) for name, object_type in OBJECT_TYPES.items()
    }
    shown |= {f"environment.{name}": "" for name in variables()}
    described = {f"rows.{name}": text for name, text in texts.rows.items()}
    described |= {
        f"environment.{name}": text.what for name, text in texts.environment.items() if _VARIABLE.fullmatch(name)
    }
    for kind, model, keys in (
        ("settings", Settings, texts.settings),
        ("object_settings", ObjectSettings, texts.object_settings),
    ):
        described |= {f"{kind}.{path}": text.what for path, text in keys.items()}
        shown |= {f"{kind}.{key.path}": key.docstring if key.type else "" for key in keys_of(model)}
    for view in [make(Settings()) for make in (*COMBINED, *FOR_BI)]:
        shown |= {f"views.{view.name}": view.description}
        shown |= {f"views.{view.name}.{column.name}": column.description for column in view.columns}
    described |= {f"views.{name}": text for name, text in texts.views.items()}
    missing = [name for name, text in shown.items() if not (text or described.get(name))]
    obsolete = described.keys() - shown.keys()
    return [f"{name} is not described" for name in missing] + [f"{name} is not declared" for name in sorted(obsolete)]


def main(arguments: Sequence[str] | None = None, *, folder: Path = DOCS) -> int:
    """Renew the pages, or with `--check` only say which are stale; the exit status."""
    parser = argparse.ArgumentParser(description="Renew the generated parts of the reference pages.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with status 1 if a page is stale")
    check = parser.parse_args(arguments).check
    pages = stale(folder)
    for page in pages:
        if check:
            print(f"{page.name} is stale: run `make docs`", file=sys.stderr)
        else:
            page.write_text(renewed(page.read_text(encoding="utf-8")), encoding="utf-8")
            print(f"{page.name} renewed")
    problems = undescribed()
    for problem in problems:
        print(f"descriptions.yaml: {problem}", file=sys.stderr)
    return 1 if problems or (check and pages) else 0


if __name__ == "__main__":
    sys.exit(main())
