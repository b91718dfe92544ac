"""Queries on the references that object types declare: which rows name a missing object."""

from __future__ import annotations

from datetime import date

from stripe_pipeline.objects import OBJECT_TYPES, ObjectType, Reference
from stripe_pipeline.settings.model import Settings

EXAMPLES = 20
"""Maximum number of ids shown for dangling references."""
JUST_BEFORE = "INTERVAL 1 HOUR"  # exceeds the time by which an object may precede a row that should be older


def dangling(object_type: ObjectType, reference: Reference, since: date) -> str:
    """The SELECT that counts, in `raw`, the references of a type that point to nothing; one row of

    - how many references were checked: those of rows that were read before the last sync began, so that a sync has
      looked for their targets since;
    - how many point to nothing; a deleted target counts as existing;
    - how many of these are in rows created before the targets' history begins (`since`, UTC), or just after;
    - the missing ids, at most `EXAMPLES`, those of later rows first;
    - when the oldest target was created.
    """
    early = f"created < TIMESTAMPTZ '{since} 00:00:00+00' + {JUST_BEFORE}"
    return f"""
SELECT count(*), count(*) FILTER (missing), count(*) FILTER (missing AND early),
    list_distinct(arg_min(named, early, {EXAMPLES}) FILTER (missing)), (SELECT min(created) FROM raw.{reference.target})
FROM (
    SELECT named, {early} AS early,
        NOT EXISTS (FROM raw.{reference.target} t WHERE t.id = named AND t.livemode = n.livemode) AS missing
    FROM (
        SELECT {_named(reference)} AS named, r.created, r.livemode FROM raw.{object_type.name} r
        JOIN pipeline.cursors c ON c.account = r._account AND c.livemode = r.livemode AND c.name = 'events'
        WHERE r._deleted_at IS NULL AND r._fetched_at < c.read_until
    ) n
    WHERE {_names_target(reference)}
)
""".strip()


def followed(settings: Settings, object_type: ObjectType) -> list[Reference]:
    """The references of a type that can be looked up: their target is loaded, and their column is neither left out nor
    hashed, in whole or in part."""
    enabled = {target.name for target in settings.enabled}
    rules = settings.rules(object_type)
    touched = {path[0] for path in rules.exclude | rules.hash}
    return [
        reference
        for reference in object_type.references
        if reference.target in enabled and reference.column not in touched
    ]


def named_by(object_type: ObjectType, reference: Reference, rows: str) -> str:
    """The SELECT of ids that `raw` rows of a type name by this reference: `id`, and the row's `created`, `_fetched_at`.

    `rows` is the condition for the rows, on their columns.
    """
    return (
        f"SELECT named AS id, created, _fetched_at FROM (SELECT {_named(reference)} AS named, created, _fetched_at"
        f" FROM raw.{object_type.name} WHERE _deleted_at IS NULL AND {rows}) WHERE {_names_target(reference)}"
    )


def _named(reference: Reference) -> str:
    """SQL for the ids that a row names: one id, or one row per id."""
    column = f'"{reference.column}"'
    below = f"{column}->>'{reference.path}'" if reference.path else column
    return f"unnest({below})" if reference.of_list else below


def _names_target(reference: Reference) -> str:
    """The condition that `named` is an id of the reference's target."""
    begins = " OR ".join(f"starts_with(named, '{prefix}')" for prefix in reference.prefixes) or "true"
    return f"named IS NOT NULL AND ({begins})"


def picture() -> str:
    """The relations as a Mermaid `erDiagram`: a line for each way in which one table names another."""
    lines: dict[tuple[str, str, str], list[str]] = {}
    for object_type in OBJECT_TYPES.values():
        for reference in object_type.references:
            # A list names many objects, a parent always exists, anything else may be null.
            many = "}o" if reference.of_list else "||" if reference.column == object_type.parent_key else "|o"
            lines.setdefault((reference.target, many, object_type.name), []).append(reference.name)
    drawn = [
        f'    {target} {many}--o{{ {table} : "{", ".join(names)}"' for (target, many, table), names in lines.items()
    ]
    return "\n".join(["erDiagram", *drawn])
