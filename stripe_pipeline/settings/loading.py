"""Reads the settings file, and explains each mistake with its line and what to write instead.

This module turns YAML into `Settings`. `model` defines the settings, `environment` reads environment variables.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from stripe_pipeline.errors import SettingsError, did_you_mean
from stripe_pipeline.settings.model import Settings

DEFAULT_FILE = "stripe_pipeline.yaml"


def load_settings(environment: Mapping[str, str] = os.environ, *, default: str = DEFAULT_FILE) -> Settings:
    """Read the settings file that `STRIPE_PIPELINE_CONFIG` names, else the file `default` if it is there.

    Raises `SettingsError`, which names the file, the key and what is accepted.
    """
    named = environment.get("STRIPE_PIPELINE_CONFIG")
    path = Path(named or default)
    try:
        content, lines = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if not named:
            return Settings()
        raise SettingsError(
            f"The settings file {path} does not exist", "Correct STRIPE_PIPELINE_CONFIG or unset it"
        ) from None
    except OSError as error:
        raise SettingsError(
            f"The settings file {path} cannot be read ({error.strerror})",
            "Give this user read access, or name another file in STRIPE_PIPELINE_CONFIG",
        ) from error
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise SettingsError(
            f"The settings file {path} is not UTF-8 (line {line})", "Save it as UTF-8, then run again"
        ) from None
    except yaml.YAMLError as error:
        raise SettingsError(f"The settings file {path} is not YAML: {_where(error)}", "Correct that line") from error
    try:
        return Settings.model_validate({} if content is None else _without_empty(content))
    except ValidationError as error:
        raise SettingsError(f"In the settings file {path}, {_explain(error, lines)}", _remedy(error)) from None


def settings_of(content: Mapping[str, Any]) -> Settings:
    """The settings in `content`, which has the keys of a settings file; raises `SettingsError`."""
    try:
        return Settings.model_validate(_without_empty(dict(content)))
    except ValidationError as error:
        raise SettingsError(f"In the settings, {_explain(error, {})}", _remedy(error)) from None


class _Loader(yaml.SafeLoader):
    """Also reports the position of an impossible value, such as a day that does not exist."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except ValueError as error:
            raise yaml.MarkedYAMLError(problem=str(error), problem_mark=node.start_mark) from error
        except (AttributeError, LookupError) as error:
            kind = node.tag.rpartition(":")[2]  # for example `timestamp` or `int`
            problem = f"{getattr(node, 'value', '')!r} is not {'an' if kind[:1] in 'aeiou' else 'a'} {kind}"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _parse(text: str) -> tuple[Any, Mapping[tuple[str, ...], int]]:
    """The content of the YAML, and the line of each key by its path. Raises `yaml.YAMLError`, also for a key that is
    repeated or is not text."""
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        lines = dict(_lines(node, ()))
        return (loader.construct_document(node) if node else None), lines
    finally:
        loader.dispose()


# `<<` merges in the mapping that an anchor names.
_NAMES = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:merge")


def _lines(
    node: yaml.Node | None, path: tuple[str, ...], above: tuple[yaml.Node, ...] = ()
) -> Iterator[tuple[tuple[str, ...], int]]:
    """`above` are the nodes that contain this one."""
    if isinstance(node, yaml.MappingNode):
        if node in above:
            raise yaml.MarkedYAMLError(
                problem="an alias refers to the mapping that contains it", problem_mark=node.start_mark
            )
        seen = set()
        for key, value in node.value:
            if key.tag not in _NAMES:
                value = f"`{key.value}` without quotes" if isinstance(key, yaml.ScalarNode) else "a list or mapping"
                raise yaml.MarkedYAMLError(problem=f"{value} is not a key", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(problem=f"`{key.value}` occurs twice", problem_mark=key.start_mark)
            seen.add(key.value)
            below = (*path, str(key.value))
            yield below, key.start_mark.line + 1
            yield from _lines(value, below, (*above, node))


def _without_empty(content: Any) -> Any:
    """The content without keys that have no value: the settings below them are commented out."""
    if isinstance(content, dict):
        return {key: _without_empty(value) for key, value in content.items() if value is not None}
    return content


def _where(error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        return f"line {error.problem_mark.line + 1}, column {error.problem_mark.column + 1}: {error.problem}"
    return " ".join(str(error).split())


def _explain(error: ValidationError, lines: Mapping[tuple[str, ...], int]) -> str:
    problems = error.errors(include_url=False, include_input=False)
    return "; ".join(sentence for problem in problems for sentence in _sentences(problem, lines))


def _sentences(problem: Any, lines: Mapping[tuple[str, ...], int]) -> Iterator[str]:
    text = str(problem["msg"]).removeprefix("Value error, ").replace("Input should", "should", 1)
    if not problem["loc"] and problem["type"] == "value_error":
        for line in text.splitlines():
            key, _, complaint = line.partition("\0")
            yield _at(tuple(key.split(".")), lines) + complaint
        return
    path = tuple(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        text = f"is not a known key{did_you_mean(path[-1], _known_keys(path))}"
    elif problem["type"] == "missing":
        text = "is missing"
    elif problem["type"] in ("model_type", "dict_type"):
        text = "should be lines of `key: value`"
    elif problem["type"] == "tuple_type":
        text = "should be a list such as [email, phone]"
    yield _at(path, lines) + text


def _at(path: tuple[str, ...], lines: Mapping[tuple[str, ...], int]) -> str:
    if not path:
        return "everything "
    line = next((lines[path[:n]] for n in range(len(path), 0, -1) if path[:n] in lines), None)
    return (f"line {line}: " if line else "") + f"`{'.'.join(path)}` "


def _known_keys(path: tuple[str, ...]) -> Iterable[str]:
    """The valid keys in place of an unknown one."""
    declared: Any = Settings
    for name in path[:-1]:
        declared = _declared_below(declared, name)
    return declared.model_fields if _is_section(declared) else ()


def _declared_below(declared: Any, name: str) -> Any:
    """The type of the value of `name` in a section, or in a mapping with any names; None if it has none."""
    below: Any = None
    if get_origin(declared) is dict:
        below = get_args(declared)[1]
    elif _is_section(declared) and name in declared.model_fields:
        below = declared.model_fields[name].annotation
    return get_args(below)[0] if get_origin(below) is Annotated else below


def _is_section(declared: Any) -> bool:
    return isinstance(declared, type) and issubclass(declared, BaseModel)


def _remedy(error: ValidationError) -> str:
    if any(problem["type"] == "extra_forbidden" for problem in error.errors(include_url=False, include_input=False)):
        return "Correct it, or upgrade stripe_pipeline if the file was written for a newer one"
    return "Correct it there"
