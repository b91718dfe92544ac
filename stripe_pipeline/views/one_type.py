"""The views on one base table each: rows of one mode that exist in Stripe, with columns that the settings add.

Only their text is created here; `warehouse.schema` stores it in the file.
"""

from __future__ import annotations

from stripe_pipeline.days import local_day
from stripe_pipeline.objects import Column, ObjectType
from stripe_pipeline.settings.model import CustomField, CustomType, Settings
from stripe_pipeline.views.columns import of_view, with_decimal
from stripe_pipeline.views.money import major_units
from stripe_pipeline.views.view import MODES, View

_SECONDS = "BETWEEN -62135596800 AND 253402300799"  # Unix seconds of the years 1 to 9999


def view_of(object_type: ObjectType, settings: Settings) -> View:
    """The view on the base table of one type."""
    title = settings.title(object_type)
    return View(
        name=object_type.name,
        title=f"{title[:1].upper()}{title[1:]}",
        description=object_type.description,
        describe=lambda: of_view(object_type, settings),
        tables=(object_type.name,),
        rows_of=object_type.name,
        select=lambda schema: _select(object_type, settings, livemode=MODES[schema]),
    )


def _select(object_type: ObjectType, settings: Settings, *, livemode: bool) -> str:
    shown = [_quoted(column.name) for column in object_type.table_columns if column.name != "_deleted_at"]
    default_date = _quoted(object_type.date_field)
    shown += [f"{default_date} AS default_date", f"{local_day(default_date, settings.time_zone)} AS default_day"]
    shown += [f'{major_units(_quoted(name), "currency")} AS "{name}_decimal"' for name in with_decimal(object_type)]
    columns = {column.name: column for column in object_type.table_columns}
    added = {flat.name: CustomField(path=flat.path) for flat in settings.flat_columns(object_type)}
    shown += [
        f"{_at_path(columns[str(custom.steps[0])], custom)} AS {_quoted(name)}"
        for name, custom in {**added, **settings.custom_fields(object_type)}.items()
    ]
    where = "livemode" if livemode else "NOT livemode"
    return f"SELECT {', '.join(shown)} FROM raw.{object_type.name} WHERE {where} AND _deleted_at IS NULL"


def _at_path(column: Column, custom: CustomField) -> str:
    """The value at the path, in the requested type; null if it has another type."""
    root, below = _quoted(column.name), custom.steps[1:]
    if below:
        path = "$" + "".join(f"[{step}]" if isinstance(step, int) else f'."{step}"' for step in below)
        literal = "'" + path.replace("'", "''") + "'"
        if custom.type is CustomType.JSON:
            return f"json_extract({root}, {literal})"
        text = f"json_extract_string({root}, {literal})"
    elif custom.type is None:
        return root
    else:
        text = root
    match custom.type:
        case None | CustomType.TEXT:
            return f"{text}::VARCHAR"
        case CustomType.JSON:
            return f"to_json({text})"
        case CustomType.TIMESTAMP:
            # Stripe's times are Unix seconds; those in metadata may be written as text.
            written = f"{text}::VARCHAR"
            number = f"TRY_CAST({written} AS BIGINT)"
            # A number that is not a time must not make every query fail with an overflow.
            seconds = f"CASE WHEN {number} {_SECONDS} THEN make_timestamptz({number} * 1000000) END"
            # A day, or a time without a zone, is UTC: otherwise DuckDB would use the session's zone.
            endings = ("Z", ":00Z", "T00:00:00Z", "")
            moments = [f"TRY_CAST({written} || '{ending}' AS TIMESTAMPTZ)" for ending in endings]
            moment = f"coalesce({seconds}, {', '.join(moments)})"
            return f"CASE WHEN isfinite({moment}) THEN {moment} END"  # DuckDB accepts `infinity` as a time
        case CustomType.INTEGER:
            # The cast alone would round.
            integer = f"TRY_CAST({text} AS BIGINT)"
            return f"CASE WHEN TRY_CAST({text} AS DOUBLE) = {integer} THEN {integer} END"
        case CustomType.NUMBER:
            number = f"TRY_CAST({text} AS DOUBLE)"
            return f"CASE WHEN isfinite({number}) THEN {number} END"
        case CustomType.BOOLEAN:
            return f"TRY_CAST({text} AS BOOLEAN)"


def _quoted(name: str) -> str:
    return f'"{name}"'
