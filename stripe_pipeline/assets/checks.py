"""Asset checks: what a user should be told about a table besides its rows.

How pokes fare belongs to `resources.inbox`; this shows those that were given up.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import dagster as dg

from stripe_pipeline.assets.raw import RESOURCE, OpensPipeline, key_of
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.objects import BY_STRIPE_OBJECT, ObjectType
from stripe_pipeline.resources.inbox import Inbox
from stripe_pipeline.settings import Settings
from stripe_pipeline.sync import Pipeline, Report

CHECK = "announced_changes_read"
_SHOWN = 20


def build_inbox_check(settings: Settings) -> dg.AssetChecksDefinition:
    """For every enabled type that is listed: whether each change that Stripe announced was read."""
    listed = [object_type for object_type in settings.enabled if object_type.endpoint]

    @dg.multi_asset_check(
        name="inbox",
        specs=[
            dg.AssetCheckSpec(
                CHECK,
                asset=key_of(object_type),
                description="Fails where an object that events or webhooks named could not be read five times:"
                " pipeline.inbox tells which and why, `stripe-pipeline webhooks retry` tries again.",
            )
            for object_type in listed
        ],
        can_subset=True,
        required_resource_keys={RESOURCE},
    )
    def inbox(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        opens: OpensPipeline = getattr(context.resources, RESOURCE)
        selected = {key.asset_key for key in context.selected_asset_check_keys}
        try:
            with opens.open() as pipeline:
                dead = dead_by_table(pipeline.inbox)
        except StripePipelineError as error:
            raise dg.Failure(description=str(error), allow_retries=False) from None
        for object_type in listed:
            if key_of(object_type) in selected:
                problems = dead.get(object_type.name, {})
                yield dg.AssetCheckResult(
                    asset_key=key_of(object_type), check_name=CHECK, passed=not problems, metadata=_metadata(problems)
                )

    return inbox


def evaluations(report: Report, pipeline: Pipeline) -> list[dg.AssetCheckEvaluation]:
    """The checks of tables that changed or failed, for whoever reports without a run."""
    touched = report.failures.keys() | {table for table, changes in report.changes.items() if changes.days}
    dead = dead_by_table(pipeline.inbox) if touched else {}
    return [
        dg.AssetCheckEvaluation(
            asset_key=key_of(object_type),
            check_name=CHECK,
            passed=object_type.name not in dead,
            metadata=_metadata(dead.get(object_type.name, {})),
        )
        for object_type in pipeline.settings.enabled
        if object_type.endpoint and object_type.name in touched
    ]


def dead_by_table(inbox: Inbox) -> dict[str, dict[str, str]]:
    """Why objects were given up, by table name and id."""
    dead: dict[str, dict[str, str]] = {}
    for entry in inbox.dead():
        table: ObjectType = BY_STRIPE_OBJECT[entry.poke.object]
        dead.setdefault(table.name, {})[entry.poke.object_id] = entry.error or ""
    return dead


def _metadata(problems: Mapping[str, str]) -> dict[str, dg.MetadataValue[Any]]:
    shown = {object_id: dg.MetadataValue.text(error) for object_id, error in list(problems.items())[:_SHOWN]}
    return {"objects given up": dg.MetadataValue.int(len(problems)), **shown}
