"""The settings in `stripe_pipeline.yaml`: their keys, defaults and validation.

`loading` reads the file, `environment` has keys, secrets and addresses. The declarations of object types belong to
`objects`, the locations of files to `data_folder`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Any, Self
from zoneinfo import available_timezones

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from stripe_pipeline.days import day_of
from stripe_pipeline.errors import did_you_mean
from stripe_pipeline.fields import PATH, STEP, FieldRules, rules_of
from stripe_pipeline.objects import ALL_TYPES, OBJECT_TYPES, UNDATED, FlatColumn, ObjectType, family_of
from stripe_pipeline.permissions import Readers
from stripe_pipeline.settings.ages import FOREVER, LONGEST, Age, age_or_date, age_or_forever, first_day

_COLUMN_NAME = re.compile(r"[a-z][a-z0-9_]*", re.ASCII)
_POSITION = re.compile(r"\d+", re.ASCII)
_OWNER = re.compile(r"team:\S+|[A-Za-z0-9_%+-][A-Za-z0-9._%+-]*@[A-Za-z0-9.-]+\.[A-Za-z]{2,7}", re.ASCII)
"""What Dagster accepts as the owner of an asset."""
_ACCOUNT = re.compile(r"acct_\w+", re.ASCII)


def _percent(value: object) -> object:
    if isinstance(value, str) and (match := re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*%\s*", value)):
        return float(match[1]) / 100
    return value


def _account(value: object) -> object:
    if isinstance(value, str) and _ACCOUNT.fullmatch(value):
        return value
    raise ValueError("should be the id of a Stripe account such as acct_1AbCdEfGhIjKlMnO")


def _time_zone(value: object) -> object:
    if isinstance(value, str) and value in available_timezones():
        return value
    like = did_you_mean(value, available_timezones()) if isinstance(value, str) else ""
    raise ValueError(f"is {value!r}{like}: should be the name of a time zone such as Europe/Berlin")


def _owner(value: object) -> object:
    if isinstance(value, str) and _OWNER.fullmatch(value):
        return value
    raise ValueError(f"is {value!r}: should be a team such as team:finance, or an email address")


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Rate(_Section):
    """How much of Stripe's rate limits the pipeline may use; the rest is headroom for other traffic."""

    share: Annotated[float, BeforeValidator(_percent, json_schema_input_type=float | str), Field(gt=0, le=1)] = 0.8


class Sweep(_Section):
    """The daily listing of older days, which finds changes that no event announced."""

    requests_a_month: Annotated[int, Field(ge=0)] = 2500
    """For each key. With the syncs of an idle account (5,760), the seals and the proofs, the default stays under the
    10,000 reads that Stripe allows every account (docs/stripe.md#limits)."""


class Proofs(_Section):
    """How the tables are compared with Stripe."""

    sample: Annotated[int, Field(ge=0, le=100_000)] = 25
    """How many rows are read again each night, for each key, and compared field by field."""


class Inbox(_Section):
    """How long notifications from Stripe are kept."""

    keep_days: Annotated[int, Field(ge=1, le=LONGEST)] = 40
    """For how many days applied notifications are remembered. The default is longer than Stripe keeps events, so that
    no event is applied twice (docs/stripe.md#events)."""


class Runs(_Section):
    """How long Dagster keeps its history of this project's runs."""

    keep_days: Annotated[int, Field(ge=1, le=LONGEST)] = 90


class Published(_Section):
    """Who besides the pipeline's own user may read the published file."""

    readable_by: Readers = Readers.OWNER


class Mrr(_Section):
    """What counts as monthly recurring revenue besides paid periods of subscriptions."""

    trials: bool = False
    """Whether trials count, at the price of the items."""
    past_due: bool = True
    """Whether periods count whose invoice is overdue, has failed to be paid or is uncollectible."""
    metered: bool = False
    """Whether usage counts, in the period in which it arose."""


class Compat(_Section):
    """Views for programs that expect the tables of another tool."""

    fivetran: bool = False
    """Whether the schemas `fivetran` and `fivetran_test` exist, with the tables of Fivetran's Stripe connector."""


class PartitionSize(StrEnum):
    """What a partition of the assets covers."""

    DAY = "day"
    MONTH = "month"


class OnDelete(StrEnum):
    """What happens to the row of an object that was deleted in Stripe."""

    HIDE = "hide"
    """The row keeps its last values in the base table, with `_deleted_at`, and the views leave it out."""
    REMOVE = "remove"
    """The row is removed from the base table, too."""


class Fields(_Section):
    """Which of Stripe's fields are stored: names of fields, or dotted paths below nested fields."""

    include: tuple[str, ...] | None = None
    exclude: tuple[str, ...] = ()
    hash: tuple[str, ...] = ()


class CustomType(StrEnum):
    """The type of a custom field; a value that cannot be converted to it is null."""

    TEXT = "text"
    INTEGER = "integer"
    NUMBER = "number"
    BOOLEAN = "boolean"
    TIMESTAMP = "timestamp"
    JSON = "json"


class CustomField(_Section):
    """A column of the views that takes its value from a path."""

    path: str
    type: CustomType | None = None
    """By default the type of the field that the path begins with, or text for a value below a nested field."""

    @property
    def steps(self) -> tuple[str | int, ...]:
        """The names in the path, and the positions in lists, counted from 0. A part in double quotes is one name, dots
        included."""
        return tuple(
            step[1:-1] if step[0] == '"' else int(step) if _POSITION.fullmatch(step) else step
            for step in STEP.findall(self.path)
        )


def _path_alone(value: object) -> object:
    return {"path": value} if isinstance(value, str) else value


class ObjectSettings(_Section):
    """Settings of one object type. `history`, `retention` and `on_delete` default to those at the top of the file."""

    enabled: bool | None = None
    """By default, a type is on unless the type is optional; a child follows its parent."""
    title: str | None = None
    date_field: str | None = None
    fields: Fields = Fields()
    custom_fields: dict[
        str, Annotated[CustomField, BeforeValidator(_path_alone, json_schema_input_type=CustomField | str)]
    ] = {}
    history: Annotated[Any, BeforeValidator(age_or_date)] = None
    retention: Annotated[Any, BeforeValidator(age_or_forever)] = None
    on_delete: OnDelete | None = None


_STANDARD = ObjectSettings()
_ALL = "all"


def _all_or_each(value: object) -> object:
    """The settings of each type: `all`, alone or as a key beside types, switches on those that nothing switches off."""
    match value:
        case "all":
            return _each({_ALL: True})
        case dict():
            return _each(value)
    like = did_you_mean(value, [_ALL]) if isinstance(value, str) else ""
    raise ValueError(f"is {value!r}{like}: write `{_ALL}` to load every type, or lines of `table: settings`")


def _each(value: dict[Any, Any]) -> object:
    each = {name: settings for name, settings in value.items() if name != _ALL}
    match value.get(_ALL, False):
        case False:
            return each
        case True:
            return each | {name: _switched_on(each.get(name, {})) for name in ALL_TYPES}
        case other:
            raise ValueError(f"has {other!r} as `{_ALL}`: should be true or false")


def _switched_on(settings: object) -> object:
    return {"enabled": True, **settings} if isinstance(settings, dict) else settings


def _problem_of(
    custom: CustomField, column: str, object_type: ObjectType, rules: FieldRules, taken: Collection[str]
) -> str | None:
    """Why a custom field cannot work, in words that follow its key; None if it can. `taken`: names of other columns."""
    if not _COLUMN_NAME.fullmatch(column):
        return "should be named with lower-case letters, digits and _, beginning with a letter"
    if column in taken:
        return "has the name of an existing column"
    if not PATH.fullmatch(custom.path):
        return f"has the path {custom.path!r}: separate names by dots, and put a name with dots in double quotes"
    kinds = {known.name: known.kind for known in object_type.table_columns}
    first, *below = custom.steps
    if first not in kinds:
        like = did_you_mean(str(first), object_type.column_names)
        problem = f"begins with {first!r}, which is not a field of {object_type.name}{like}"
        return f"{problem}; fields that this version does not know are below _extra"
    if below and not kinds[str(first)].is_nested:
        return f"takes {custom.path!r}, but {first} has no fields below it"
    if first == "metadata" and (len(below) > 1 or isinstance(custom.steps[-1], int)):
        return (
            f"takes {custom.path!r}, but metadata holds only text by name: put a name that contains dots, or is a"
            " number, in double quotes"
        )
    if not rules.leaves_out(custom.steps):
        return None
    if first in object_type.secrets:
        return (
            f"takes {custom.path!r}, which Stripe says must not be stored: it is stored only if `include` or `hash`"
            " under `fields` names it"
        )
    return f"takes {custom.path!r}, which `fields` leaves out"


class Settings(_Section):
    """The content of `stripe_pipeline.yaml`; every key is optional."""

    account: Annotated[str | None, BeforeValidator(_account)] = None
    """The account that the keys belong to, for a restricted key that may not read it."""
    history: Annotated[Any, BeforeValidator(age_or_date)] = Field(default="24 months", validate_default=True)
    retention: Annotated[Any, BeforeValidator(age_or_forever)] = FOREVER
    on_delete: OnDelete = OnDelete.HIDE
    partitions: PartitionSize = PartitionSize.DAY
    """What a partition of the assets covers. Dagster records each partition of each table."""
    time_zone: Annotated[str, BeforeValidator(_time_zone)] = "UTC"
    """The time zone of `default_day` and of the days and months of the finance views. What is loaded, kept and complete
    is counted in UTC days."""
    mrr: Mrr = Mrr()
    rate: Rate = Rate()
    sweep: Sweep = Sweep()
    proofs: Proofs = Proofs()
    inbox: Inbox = Inbox()
    runs: Runs = Runs()
    compat: Compat = Compat()
    published: Published = Published()
    owners: tuple[Annotated[str, BeforeValidator(_owner)], ...] = ()
    """Who is responsible for the assets, as their pages in Dagster show."""
    bi: bool = False
    """Whether the file has views for BI tools, in the schemas `bi` and `bi_test`."""
    objects: Annotated[
        dict[str, ObjectSettings],
        BeforeValidator(_all_or_each, json_schema_input_type=dict[str, ObjectSettings | bool] | str),
    ] = {}
    """By table name. `all`, alone or as the key `all: true`, switches on `ALL_TYPES`."""

    @model_validator(mode="after")
    def _check_objects(self) -> Self:
        problems = [f"{where}\0{problem}" for name in self.objects for where, problem in self._problems(name)]
        if not problems and not self.enabled:
            problems = ["objects\0switches every type off: leave one on"]
        if problems:
            raise ValueError("\n".join(problems))
        return self

    def _problems(self, name: str) -> Iterator[tuple[str, str]]:
        """The problems in the settings of this type: each with its key, and the words that follow the key."""
        key = f"objects.{name}"
        if name not in OBJECT_TYPES:
            yield key, f"is not an object type{did_you_mean(name, OBJECT_TYPES)}: these are {', '.join(OBJECT_TYPES)}"
            return
        object_type, settings = OBJECT_TYPES[name], self.objects[name]
        if object_type.optional and settings.enabled is None:
            yield key, "is off by default: add `enabled: true`, or `enabled: false` to keep its settings for later"
        try:
            rules = self.rules(object_type)
        except ValueError as error:
            yield f"{key}.fields", str(error)
            return
        dates = [column.name for column in object_type.columns if column.kind.is_time]
        if settings.date_field is not None and settings.date_field not in dates:
            yield f"{key}.date_field", f"is {settings.date_field!r}: the timestamps of {name} are {', '.join(dates)}"
        elif settings.date_field in rules.left_out:
            yield f"{key}.date_field", f"is {settings.date_field!r}, which `fields` leaves out"
        for of_parent in ("history", "on_delete"):
            if getattr(settings, of_parent) is not None and object_type.parent:
                yield (
                    f"{key}.{of_parent}",
                    f"cannot be set: {name} come and go with their {object_type.parent}; set it there",
                )
        if "\0" in (settings.title or ""):
            yield f"{key}.title", "contains a NUL character"
        taken = {column.name for column in object_type.table_columns} - rules.left_out
        taken |= {"default_date", "default_day"}
        taken |= {f"{column.name}_decimal" for column in object_type.columns if column.kind.in_minor_units}
        for column, custom in settings.custom_fields.items():
            if problem := _problem_of(custom, column, object_type, rules, taken):
                yield f"{key}.custom_fields.{column}", problem

    def _of(self, object_type: ObjectType) -> ObjectSettings:
        return self.objects.get(object_type.name, _STANDARD)

    @cached_property
    def _rules(self) -> dict[str, FieldRules]:
        """The results of `rules` so far, by table name: every run needs them several times."""
        return {}

    def rules(self, object_type: ObjectType) -> FieldRules:
        """Which fields of this type are left out, and which are hashed."""
        name = object_type.name
        if name not in self._rules:
            fields = self._of(object_type).fields
            self._rules[name] = rules_of(
                OBJECT_TYPES[name], include=fields.include, exclude=fields.exclude, hashed=fields.hash
            )
        return self._rules[name]

    @cached_property
    def types(self) -> Mapping[str, ObjectType]:
        """All object types by table name, with the columns and the default date field that these settings give them."""

        def shaped(object_type: ObjectType) -> ObjectType:
            if object_type.name not in self.objects and not object_type.secrets:
                return object_type
            left_out = self.rules(object_type).left_out
            return replace(
                object_type,
                columns=tuple(column for column in object_type.columns if column.name not in left_out),
                date_field=self._of(object_type).date_field or object_type.date_field,
            )

        return {name: shaped(object_type) for name, object_type in OBJECT_TYPES.items()}

    @property
    def hashes(self) -> bool:
        """Whether any field is hashed, which needs the hash key."""
        return any(self.rules(object_type).hash for object_type in self.types.values())

    @property
    def enabled(self) -> tuple[ObjectType, ...]:
        """The object types that are loaded, in table order. A child is loaded only together with its parent."""
        return tuple(object_type for object_type in self.types.values() if self._is_on(object_type))

    def _is_on(self, object_type: ObjectType) -> bool:
        enabled = self._of(object_type).enabled
        if object_type.parent and not self._is_on(OBJECT_TYPES[object_type.parent]):
            return False
        return not object_type.optional if enabled is None else enabled

    @property
    def required(self) -> tuple[ObjectType, ...]:
        """The object types that have a table, in table order: all but the optional types that are off, with their
        children. Of an optional type that was on before, the file keeps the table."""
        return tuple(
            t for t in self.types.values() if all(self._is_on(of) or not of.optional for of in (t, family_of(t)))
        )

    @property
    def announcing(self) -> tuple[ObjectType, ...]:
        """The object types whose events must be received, in table order: the enabled types, and types whose events
        announce changes of an enabled type, which may be switched off themselves unless they are optional."""
        enabled = {object_type.name for object_type in self.enabled}
        announcing = {name for object_type in self.enabled for name in object_type.announced_by}
        return tuple(t for t in self.required if t.event_types and t.name in enabled | announcing)

    @property
    def event_types(self) -> tuple[str, ...]:
        """The event types that a webhook endpoint needs, in alphabetical order."""
        return tuple(sorted({event for object_type in self.announcing for event in object_type.event_types}))

    def title(self, object_type: ObjectType) -> str:
        """What people call this type: the settings' title, else the table's name."""
        return self._of(object_type).title or object_type.name.replace("_", " ")

    def custom_fields(self, object_type: ObjectType) -> Mapping[str, CustomField]:
        """The columns that the views add from paths, by name."""
        return self._of(object_type).custom_fields

    def flat_columns(self, object_type: ObjectType) -> tuple[FlatColumn, ...]:
        """The flat columns of the type's view: those whose nested column is stored and whose name no custom field
        has."""
        columns, custom = self.types[object_type.name].column_names, self.custom_fields(object_type)
        return tuple(
            flat for flat in object_type.flat if flat.path.partition(".")[0] in columns and flat.name not in custom
        )

    def history_begins(self, object_type: ObjectType) -> Age | date:
        """When the history of this type begins, as the settings say it; for children, as for their parent."""
        begins: Age | date = self._of(family_of(object_type)).history or self.history
        return begins

    def history_of(self, object_type: ObjectType) -> date:
        """The first UTC day of `created` that the settings ask for of this type.

        By `created`, whatever the date field is: Stripe's lists share no other time filter (docs/stripe.md#lists).
        """
        return first_day(self.history_begins(object_type))

    @property
    def first_day(self) -> date:
        """The first UTC day of the history of any enabled type: the first partition."""
        return min((self.history_of(object_type) for object_type in self.enabled), default=first_day(self.history))

    def retention_of(self, object_type: ObjectType) -> Age | None:
        """How long rows of this type are kept, by its date field; None for forever.

        Children are pruned with their parents; a child with a retention of its own may be pruned earlier.
        """
        retention = self._of(object_type).retention
        if retention is None and object_type.parent is None:
            retention = self.retention
        return retention if isinstance(retention, Age) else None

    def cutoff(self, object_type: ObjectType) -> date | None:
        """The first UTC day, by the date field, whose rows of this type are kept as of today; None if all are kept, as
        always of an undated type."""
        if not object_type.dated:
            return None
        age = self.retention_of(object_type)
        return age.before(datetime.now(UTC).date()) if age else None

    def first_listed(self, object_type: ObjectType) -> date:
        """The first UTC day of `created` that is worth listing: older objects are not kept."""
        if not object_type.dated:
            return day_of(UNDATED)
        family = self.types[family_of(object_type).name]
        history, cutoff = self.history_of(family), self.cutoff(family)
        return max(history, cutoff) if cutoff and family.date_field == "created" else history

    def on_delete_of(self, object_type: ObjectType) -> OnDelete:
        """What happens to rows whose objects were deleted in Stripe; for children, the same as for their parent."""
        return self._of(family_of(object_type)).on_delete or self.on_delete
