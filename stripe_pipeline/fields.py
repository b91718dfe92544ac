"""Which of an object's fields are kept, left out or hashed, before any part of the object is written.

`settings` defines the possible settings, from which a table's columns follow; `rows` decides which column a value goes
into.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import orjson

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import SettingsError, WarehouseError, did_you_mean, scrub_client_secrets
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType, children_of
from stripe_pipeline.storage_errors import reason, remedy

UNKNOWN = "_extra"
"""Stands for all fields that this version does not know: they are kept in the column of that name."""

STEP = re.compile(r'"[^"]+"|[^."]+')
"""One name of a path; in double quotes if it has dots."""
PATH = re.compile(rf"(?:{STEP.pattern})(?:\.(?:{STEP.pattern}))*")
"""A name, then nested names after dots."""

SECRET = "secret"
"""Part of the name of every secret field, and of every client secret: text without this word holds none."""

_CLIENT_SECRET = "client_secret"
_BY_OBJECT = {
    # Of types with the same objects, the one that is declared by hand comes last, and wins.
    object_type.object: object_type.name
    for object_type in sorted(OBJECT_TYPES.values(), key=lambda declared: not declared.generated)
    if not object_type.link  # these store none of the object's fields
}
_DIGITS = 32  # of a hash: 128 bits
_WORDS = {("currency",), ("status",)}  # fields with a few known values, which readers of a row need to distinguish


@dataclass(frozen=True)
class FieldRules:
    """The left-out and hashed fields of one object type: names, or paths into nested fields."""

    exclude: frozenset[tuple[str, ...]] = frozenset()
    hash: frozenset[tuple[str, ...]] = frozenset()
    keep_unknown: bool = True

    def __bool__(self) -> bool:
        return bool(self.exclude or self.hash or not self.keep_unknown)

    @property
    def left_out(self) -> frozenset[str]:
        """The columns that the table does not have."""
        return frozenset(path[0] for path in self.exclude if len(path) == 1)

    def leaves_out(self, steps: Sequence[str | int]) -> bool:
        """Whether the value at these steps, names and list indexes, is left out."""
        names = tuple(step for step in steps if isinstance(step, str))
        return any(names[: len(path)] == path for path in self.exclude) or (
            names[0] == UNKNOWN and not self.keep_unknown
        )

    def to_json(self) -> str:
        """The rules as a text that is equal for equal rules."""
        rules = {"exclude": sorted(self.exclude), "hash": sorted(self.hash), "keep_unknown": self.keep_unknown}
        return orjson.dumps(rules).decode()

    @classmethod
    def from_json(cls, text: str) -> FieldRules:
        """The rules that `to_json` returned `text` for."""
        rules = orjson.loads(text)
        return cls(frozenset(map(tuple, rules["exclude"])), frozenset(map(tuple, rules["hash"])), rules["keep_unknown"])


@dataclass
class _Branch:
    """The rules that apply below one field."""

    drop: bool = False
    hash: bool = False
    hashed: bool = False
    """The stored value is already a hash."""
    below: dict[str, _Branch] = field(default_factory=dict)


_NOTHING = _Branch()


class FieldFilter:
    """Removes unwanted fields from Stripe's objects, also where one object holds another."""

    def __init__(
        self,
        rules: Mapping[str, FieldRules],
        hash_key: bytes | None = None,
        hashed: Mapping[str, frozenset[tuple[str, ...]]] = MappingProxyType({}),
    ) -> None:
        """`rules` by table name; `hash_key` is needed if one of them hashes. `hashed`: the paths, by table name, of
        values that arrive already hashed."""
        # Nearly every account has only the rules about secrets, which need no walk through each object.
        walked = {
            table: replace(of_table, exclude=of_table.exclude - _secrets_of(OBJECT_TYPES[table]))
            for table, of_table in rules.items()
        }
        self._trees = {
            table: _tree(walked.get(table, FieldRules()), hashed.get(table, frozenset()))
            for table in OBJECT_TYPES
            if walked.get(table) or hashed.get(table)
        }
        self._secrets = {
            table: frozenset(object_type.secrets) - _kept_secrets(rules, object_type)
            for table, object_type in OBJECT_TYPES.items()
        }
        self._kept_secrets = kept_secrets(rules)
        self._keep_unknown = {table for table in OBJECT_TYPES if table not in rules or rules[table].keep_unknown}
        self._known = {table: frozenset(OBJECT_TYPES[table].column_names) for table in OBJECT_TYPES}
        self._references = {
            table: frozenset(column.name for column in object_type.columns if column.kind.names_object)
            for table, object_type in OBJECT_TYPES.items()
        }
        self._embedded = {
            table: {child.embedded_in: child.name for child in children_of(object_type)}
            for table, object_type in OBJECT_TYPES.items()
        }
        self._hash_key = hash_key

    def apply(self, object_type: ObjectType, obj: Mapping[str, Any]) -> Mapping[str, Any]:
        """The fields of `obj` that may be stored; `obj` itself if the settings have no rules.

        `without_secrets` removes secrets that are nested in the object.
        """
        if secrets := self._secrets[object_type.name]:
            obj = {name: value for name, value in obj.items() if name not in secrets}
        return self._object(object_type.name, obj) if self._trees else obj

    def without_secrets(self, object_type: ObjectType, line: bytes) -> bytes:
        """`line`, a row of `object_type` as a line of JSON, without the secrets in any of its values."""
        if SECRET.encode() not in line:
            return line
        row = without_secrets(orjson.loads(line), self._kept_secrets, of=object_type.object)
        if not row.get(UNKNOWN, True):
            del row[UNKNOWN]
        return orjson.dumps(row) + b"\n"

    def column(self, table: str, name: str, value: Any) -> Any:
        """The value of a column as it may be stored: a field's value, or the unknown fields of `_extra`."""
        if name == UNKNOWN:
            unknown = {key: held for key, held in value.items() if held is self._unexpanded(table, key, held)}
            return self._object(table, unknown)
        branch = self._trees.get(table, _NOTHING).below.get(name, _NOTHING)
        return None if branch.drop else self._value(value, branch, name, inside=self._embedded[table].get(name))

    def _object(self, table: str, obj: Mapping[str, Any], above: _Branch = _NOTHING) -> dict[str, Any]:
        """`above` holds the enclosing object's rules for this object."""
        tree = self._trees.get(table, _NOTHING)
        filtered = {}
        for name, value in obj.items():
            if name not in self._known[table] and table not in self._keep_unknown:
                continue
            branch = _both(tree.below.get(name, _NOTHING), above.below.get(name, _NOTHING))
            if not branch.drop:
                field = self._unexpanded(table, name, value)
                filtered[name] = self._value(field, branch, name, inside=self._embedded[table].get(name))
        return filtered

    def _unexpanded(self, table: str, name: str, value: Any) -> Any:
        """`value`, or only the id of an expanded reference if unknown fields are not kept."""
        if table in self._keep_unknown or name not in self._references[table] or not isinstance(value, dict):
            return value
        return value["id"] if isinstance(value.get("id"), str) else value

    def _value(self, value: Any, branch: _Branch, name: str, *, inside: str | None = None) -> Any:
        """`name` is the field's name; `inside` is the table of objects that do not name their type, or a list of
        them."""
        if branch.hash and not isinstance(value, list):
            return value if branch.hashed and isinstance(value, str) else self._hashed(value)
        if isinstance(value, list):
            return [self._value(item, branch, name, inside=inside) for item in value]
        if not isinstance(value, dict):
            return value
        # In metadata, the shop may have chosen `object` as a key.
        stripe_object = value.get("object") if name != "metadata" else None
        table = _BY_OBJECT.get(stripe_object) if isinstance(stripe_object, str) else None
        if table is None and inside is not None and stripe_object != "list":
            table = inside
        if table is not None:
            # The object's type always stays: later rules find the object by its type.
            return self._object(table, value, branch) | ({"object": stripe_object} if "object" in value else {})
        return {
            key: self._value(item, branch.below.get(key, _NOTHING), key, inside=inside if key == "data" else None)
            for key, item in value.items()
            if not branch.below.get(key, _NOTHING).drop
        }

    def _hashed(self, value: Any) -> Any:
        """A text that is equal for equal values, and reveals nothing about them without the key."""
        if isinstance(value, dict):
            value = value.get("id")  # an expanded reference
        if value is None:
            return None
        assert self._hash_key is not None
        return hashed(value if isinstance(value, str) else repr(value), self._hash_key)


def hashed(text: str, key: bytes) -> str:
    """The hash of `text`: 32 hexadecimal digits of its HMAC-SHA-256 with `key`."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()[:_DIGITS]


def without_secrets(
    value: Any, kept_fields: Mapping[str, frozenset[str]] = MappingProxyType({}), *, name: str = "", of: str = ""
) -> Any:
    """`value` without the secrets that Stripe says must not be stored: each `client_secret`, each `secret` of an object
    such as an ephemeral key, and client secrets within text.

    `kept_fields`: the fields that stay as they are, by Stripe's name for the object they belong to. `name` is the field
    that holds `value`; `of` is the type of `value` if `value` does not name it. Metadata stays as it is: the shop
    chooses its keys.
    """
    if name == "metadata":
        return value
    if isinstance(value, str):
        return scrub_client_secrets(value)
    if isinstance(value, list):
        return [without_secrets(item, kept_fields) for item in value]
    if not isinstance(value, dict):
        return value
    stripe_object = value.get("object", of)
    exempt = kept_fields.get(stripe_object, frozenset()) if isinstance(stripe_object, str) else frozenset()
    secrets = {_CLIENT_SECRET, SECRET} if stripe_object or name == UNKNOWN else {_CLIENT_SECRET}
    return {
        key: item if key in exempt else without_secrets(item, kept_fields, name=key)
        for key, item in value.items()
        if key in exempt or key not in secrets
    }


def kept_secrets(rules: Mapping[str, FieldRules]) -> Mapping[str, frozenset[str]]:
    """The secrets that `rules` (by table name) keep, by Stripe's name for the object."""
    return {
        object_type.object: names
        for object_type in OBJECT_TYPES.values()
        if (names := _kept_secrets(rules, object_type))
    }


def _kept_secrets(rules: Mapping[str, FieldRules], object_type: ObjectType) -> frozenset[str]:
    """The secrets of this type that the rules keep; none for a type without rules."""
    if object_type.name not in rules:
        return frozenset()
    return frozenset(object_type.secrets) - rules[object_type.name].left_out


def _secrets_of(object_type: ObjectType) -> frozenset[tuple[str, ...]]:
    return frozenset((name,) for name in object_type.secrets)


def _both(first: _Branch, second: _Branch) -> _Branch:
    """The combination of two rules."""
    if first is _NOTHING or second is _NOTHING:
        return second if first is _NOTHING else first
    below = {
        name: _both(first.below.get(name, _NOTHING), second.below.get(name, _NOTHING))
        for name in first.below.keys() | second.below.keys()
    }
    return _Branch(first.drop or second.drop, first.hash or second.hash, first.hashed or second.hashed, below)


def _tree(rules: FieldRules, hashed: frozenset[tuple[str, ...]]) -> _Branch:
    root = _Branch()
    for paths, effect in ((rules.exclude, "drop"), (rules.hash, "hash"), (hashed, "hashed")):
        for path in paths:
            branch = root
            for name in path:
                branch = branch.below.setdefault(name, _Branch())
            setattr(branch, effect, True)
    return root


def path_from(text: str) -> tuple[str, ...]:
    """The names in a path as written in the settings."""
    return tuple(step.strip('"') for step in STEP.findall(text))


def path_text(path: Iterable[str]) -> str:
    """The path as written in the settings."""
    return ".".join(f'"{step}"' if "." in step else step for step in path)


def rules_of(
    object_type: ObjectType, *, include: Iterable[str] | None, exclude: Iterable[str], hashed: Iterable[str]
) -> FieldRules:
    """The rules given by lists of names and dotted paths. A secret is left out unless `include` or `hash` names it.

    Raises `ValueError` with a user-facing sentence if a name is not a field, is a key, or cannot be hashed.
    """
    left_out = {_path_of(name, object_type, of_list="exclude") for name in exclude}
    hashes = {_path_of(name, object_type, of_list="hash") for name in hashed}
    keep_unknown = (UNKNOWN,) not in left_out
    if include is None:
        left_out |= _secrets_of(object_type) - {path[:1] for path in hashes}
    else:
        named = _named({_path_of(name, object_type, of_list="include") for name in include}, hashes)
        names = {column.name for column in object_type.columns}
        left_out |= {(name,) for name in names - named - object_type.key_columns}
        keep_unknown = keep_unknown and UNKNOWN in named
    _check_hashes(hashes, left_out, object_type)
    return FieldRules(frozenset(left_out - {(UNKNOWN,)}), frozenset(hashes), keep_unknown)


def _path_of(name: str, object_type: ObjectType, *, of_list: str) -> tuple[str, ...]:
    """The path that `name` means in one of the lists; raises `ValueError` like `rules_of`."""
    columns = {column.name: column for column in object_type.columns}
    keys = object_type.key_columns
    if not PATH.fullmatch(name):
        raise ValueError(
            f"names {name!r} under `{of_list}`: separate names by dots, and put a name with dots in double quotes"
        )
    path = path_from(name)
    if path[0] not in columns and name != UNKNOWN:
        like = did_you_mean(path[0], columns)
        raise ValueError(f"names {name!r} under `{of_list}`, which is not a field of {object_type.name}{like}")
    if of_list != "include" and path[0] in keys:
        raise ValueError(f"names {name!r} under `{of_list}`: rows need {', '.join(sorted(keys))}")
    if len(path) > 1 and not columns[path[0]].kind.is_nested:
        raise ValueError(f"names {name!r} under `{of_list}`, but {path[0]} has no fields below it")
    if path[0] == "metadata" and len(path) > 2:
        raise ValueError(
            f"names {name!r} under `{of_list}`, but metadata holds text: a key with dots goes in double quotes"
        )
    return path


def _named(included: Collection[tuple[str, ...]], hashes: Iterable[tuple[str, ...]]) -> set[str]:
    """The fields that `include` and `hash` keep together; raises `ValueError` like `rules_of`."""
    if below := sorted(".".join(path) for path in included if len(path) > 1):
        raise ValueError(f"names {below[0]!r} under `include`: include the field, and exclude what is below it")
    named = {path[0] for path in included}
    for path in sorted(hashes):
        if len(path) > 1 and path[0] not in named:
            raise ValueError(
                f"names {path_text(path)!r} under `hash` and not {path[0]!r} under `include`: include the field, and"
                " exclude what else is below it"
            )
        named.add(path[0])
    return named


def _check_hashes(
    hashes: Iterable[tuple[str, ...]], left_out: Collection[tuple[str, ...]], object_type: ObjectType
) -> None:
    """Raise `ValueError`, like `rules_of`, for unhashable fields."""
    kinds = {column.name: column.kind for column in object_type.columns}
    for path in sorted(hashes):
        if path[0] == UNKNOWN or (len(path) == 1 and not kinds[path[0]].hashable):
            raise ValueError(
                f"names {'.'.join(path)!r} under `hash`: only text can be hashed; below a nested field, name the path"
                " to the text"
            )
        if path in _WORDS:
            raise ValueError(
                f"names {path[0]!r} under `hash`: views and updates depend on its value; exclude it instead"
            )
        if any(path[: len(other)] == other for other in left_out):
            raise ValueError(f"names {'.'.join(path)!r} under both `hash` and `exclude`")


def unseen(rules: FieldRules, objects: Sequence[Mapping[str, Any]]) -> list[str]:
    """The nested fields that the rules name but none of `objects` has, each with the name that was probably meant.

    A field is skipped if no object has a value that could contain the field.
    """
    missing = []
    for path in sorted(rules.exclude | rules.hash):
        above: list[Any] = list(objects)
        for step in path[:-1]:
            above = [obj[step] for obj in _each(above) if step in obj]
        names = {name for obj in _each(above) for name in obj}
        if len(path) > 1 and names and path[-1] not in names:
            missing.append(path_text(path) + did_you_mean(path[-1], names))
    return missing


def _each(values: Iterable[Any]) -> Iterator[Mapping[str, Any]]:
    """The objects among the values, and the objects in their lists."""
    for value in values:
        if isinstance(value, Mapping):
            yield value
        elif isinstance(value, list):
            yield from _each(value)


def load_hash_key(folder: DataFolder, environment: Mapping[str, str] = os.environ, *, keep: bool = True) -> bytes:
    """The key for hashing fields: STRIPE_PIPELINE_HASH_KEY, else a key generated for this data folder and stored there.

    Without `keep`, for read-only callers, a new key is not stored. Raises `WarehouseError` if a key cannot be stored,
    and `SettingsError` if a lake, which other hosts may write to, needs a key and the environment sets none.
    """
    if folder.lake:
        if not folder.lake.hash_key:
            raise SettingsError(
                "The warehouse is in a lake, and STRIPE_PIPELINE_HASH_KEY is not set: a key that one host generates"
                " would not be known to the others",
                "Set STRIPE_PIPELINE_HASH_KEY to the same secret on all hosts, for example one that `openssl rand -hex"
                " 32` prints",
            )
        return folder.lake.hash_key.encode()
    if from_environment := environment.get("STRIPE_PIPELINE_HASH_KEY", "").strip():
        return from_environment.encode()
    try:
        if not folder.hash_key.exists() and not keep:
            return secrets.token_hex(32).encode()
        if not folder.hash_key.exists():
            folder.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=folder.root) as new_key:  # only this user may read the file
                new_key.write(secrets.token_hex(32))
                new_key.flush()
                with contextlib.suppress(FileExistsError):
                    # Atomic: another process may look for the key at the same moment.
                    folder.hash_key.hardlink_to(new_key.name)
        key = folder.hash_key.read_bytes()
    except OSError as error:
        raise WarehouseError(
            f"The key that fields are hashed with cannot be kept in {folder.hash_key} ({reason(error)})",
            f"{remedy(error, folder.hash_key)}; or set STRIPE_PIPELINE_HASH_KEY",
        ) from error
    if not key.strip():
        raise WarehouseError(
            f"{folder.hash_key}, which should hold the key that fields are hashed with, is empty",
            "Restore the file from a backup. Without a backup, remove it: the next run makes a new key and prints the"
            " backfill that fills the hashed columns",
        )
    return key
