"""Asset checks: whether announced changes were read, each object is stored once, and references point to rows.

`inbox` retries notifications; this module shows those that were given up. `objects` declares the references,
`views.references` counts the dangling ones, and this module judges the counts.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import dagster as dg

from stripe_pipeline.assets.failure import failure
from stripe_pipeline.assets.keys import Names
from stripe_pipeline.assets.runs import UNFINISHED
from stripe_pipeline.errors import StripePipelineError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.objects import BY_STRIPE_OBJECT, ObjectType, Reference
from stripe_pipeline.proof.proving import once
from stripe_pipeline.proof.summary import summarize
from stripe_pipeline.proof.verdict import Verdict
from stripe_pipeline.resources.pipeline import OpensPipeline
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.views.references import dangling, followed

CHECK = "announced_changes_read"
REFERENCES = "references_resolve"
UNIQUE = "each_object_once"
PROVED = "proved"
NIGHTLY = (REFERENCES, UNIQUE, PROVED)
"""The checks that read whole tables, which is too much for every sync."""
VERDICT_TAG = "verdict"
"""The tag of a run that proved the tables."""
EVALUATED_AT = "evaluated at"
"""The metadata key of a repeated result: when the check ran."""
WITHOUT_RUN = ""
"""The run id that Dagster gives to events reported without a run."""
_LOOKED_BACK = 30  # records; those of runs that failed before they evaluated hold no result
_SHOWN = 20
_QUIET_START = timedelta(days=31)
"""A table whose oldest row is this long after its history begins holds every object ever made."""


@dataclass(frozen=True)
class _Verdict:
    """The result of a check for one table."""

    passed: bool
    metadata: Mapping[str, dg.MetadataValue[Any]]
    description: str | None = None


def build_checks(settings: Settings, names: Names) -> dict[str, dg.AssetChecksDefinition]:
    """The checks of the enabled types by check name, without checks that no type needs."""
    listed = [object_type for object_type in settings.enabled if object_type.endpoint]
    references = _references(settings)

    def announced(pipeline: Pipeline, object_type: ObjectType) -> _Verdict:
        problems = dead_by_table(pipeline.inbox).get(object_type.name, {})
        return _Verdict(not problems, _metadata(problems))

    def resolve(pipeline: Pipeline, object_type: ObjectType) -> _Verdict:
        return _resolved(pipeline, settings, object_type, references[object_type.name])

    checks = {
        CHECK: _build(
            names,
            CHECK,
            listed,
            announced,
            "Fails if an object that events or webhooks named could not be read in five attempts: `pipeline.inbox`"
            " shows which objects and why, `stripe-pipeline webhooks retry` tries again.",
        ),
        REFERENCES: _build(
            names,
            REFERENCES,
            [object_type for object_type in settings.enabled if object_type.name in references],
            resolve,
            "Warns if rows name objects that should be in the warehouse and are not; checked once a day.",
            dg.AssetCheckSeverity.WARN,
        ),
        UNIQUE: _build(
            names,
            UNIQUE,
            settings.enabled,
            _unique,
            "Fails if an object is stored in more than one row; checked once a day.",
        ),
        PROVED: _build(
            names,
            PROVED,
            settings.enabled,
            _proved,
            "Fails if the table differs from the balance that Stripe reports, from objects that were read again or from"
            " other tables: `pipeline.proof` has every comparison. Checked once a day.",
            prepare=_prove,
        ),
    }
    return {name: check for name, check in checks.items() if check}


def _build(
    names: Names,
    name: str,
    tables: Sequence[ObjectType],
    judge: Callable[[Pipeline, ObjectType], _Verdict],
    description: str,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
    *,
    prepare: Callable[[Pipeline, dg.AssetCheckExecutionContext], object] = lambda *_: None,
) -> dg.AssetChecksDefinition | None:
    """The check `name` of these tables, each judged separately, after `prepare`; None without tables."""
    if not tables:
        return None

    @dg.multi_asset_check(
        name=names.own(name),
        specs=[
            dg.AssetCheckSpec(name, asset=names.key_of(object_type), description=description) for object_type in tables
        ],
        can_subset=True,
        required_resource_keys={names.resource},
    )
    def checked(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        opens: OpensPipeline = getattr(context.resources, names.resource)
        selected = {key.asset_key for key in context.selected_asset_check_keys}
        try:
            with opens.open() as pipeline, opens.run_locks.holding(context.run.run_id):
                prepare(pipeline, context)
                for object_type in tables:
                    if names.key_of(object_type) in selected:
                        verdict = judge(pipeline, object_type)
                        yield dg.AssetCheckResult(
                            asset_key=names.key_of(object_type),
                            check_name=name,
                            passed=verdict.passed,
                            severity=severity,
                            description=verdict.description,
                            metadata=verdict.metadata,
                        )
        except StripePipelineError as error:
            raise failure(error) from None

    return checked


def _prove(pipeline: Pipeline, context: dg.AssetCheckExecutionContext) -> None:
    """Compare the tables, and let the run show the summary if that is not of a backfill."""
    if context.run.asset_selection:
        # A backfill has just read its rows: only the nightly job, and the check by itself, read a sample.
        pipeline.prove(sample=False)
        return
    pipeline.prove()
    summary = summarize(pipeline.warehouse.proofs.stored())
    context.log.info("\n".join(summary.lines))
    context.instance.add_run_tags(context.run.run_id, {VERDICT_TAG: summary.verdict.value})


def _references(settings: Settings) -> dict[str, list[Reference]]:
    """The references of each enabled type that can be followed, by table name."""
    every = {object_type.name: followed(settings, object_type) for object_type in settings.enabled}
    return {table: references for table, references in every.items() if references}


def _proved(pipeline: Pipeline, object_type: ObjectType) -> _Verdict:
    proofs = [proof for proof, _ in pipeline.warehouse.proofs.stored() if proof.object_type == object_type.name]
    shown = {
        f"{proof.name}{f' {proof.scope}' if proof.scope else ''}": dg.MetadataValue.text(
            f"{proof.verdict}: {proof.reason or f'{proof.left} stored, {proof.right} expected'}"
        )
        for proof in proofs
        if proof.verdict is not Verdict.PROVED
    }
    summary = summarize((proof, 0.0) for proof in proofs)
    metadata = {"comparisons": dg.MetadataValue.int(len(proofs)), **dict(list(shown.items())[:_SHOWN])}
    return _Verdict(not summary.failed, metadata, summary.sentence if shown else None)


def _unique(pipeline: Pipeline, object_type: ObjectType) -> _Verdict:
    repeated = [
        proof.scope
        for livemode in (True, False)
        for proof in once(pipeline.warehouse.ask, object_type, livemode=livemode)
        if proof.verdict is Verdict.FAILED and proof.scope
    ]
    if not repeated:
        return _Verdict(True, {})
    way_out = "Please report this; a new data folder (STRIPE_PIPELINE_DATA) will hold every object once."
    return _Verdict(False, {"examples": dg.MetadataValue.text(", ".join(repeated))}, way_out)


@dataclass(frozen=True)
class _Counts:
    """The counts for one column's references to one table."""

    reference: Reference
    seen: int
    missing: int
    explained: int
    """How many of the missing objects are expected to be missing: older than the history, or never listed."""
    examples: list[str]


def _resolved(
    pipeline: Pipeline, settings: Settings, object_type: ObjectType, references: Iterable[Reference]
) -> _Verdict:
    return _judge(_resolve(pipeline, settings, object_type, reference) for reference in references)


def _resolve(pipeline: Pipeline, settings: Settings, object_type: ObjectType, reference: Reference) -> _Counts:
    target = settings.types[reference.target]
    since = settings.first_listed(target)
    [(seen, missing, early, examples, oldest)] = pipeline.warehouse.ask(dangling(object_type, reference, since))
    begins = datetime(since.year, since.month, since.day, tzinfo=UTC)
    explained = early
    pruned = target.date_field != "created" and settings.cutoff(target) is not None
    if (
        pruned
        or reference.may_be_gone
        or (reference.may_be_older and oldest is not None and oldest <= begins + _QUIET_START)
    ):
        explained = missing
    return _Counts(reference, seen, missing, explained, examples or [])


def _judge(counts: Iterable[_Counts]) -> _Verdict:
    metadata: dict[str, dg.MetadataValue[Any]] = {}
    wrong = []
    for count in counts:
        label = count.reference.label
        metadata[f"{label}: missing"] = dg.MetadataValue.int(count.missing)
        if count.explained:
            metadata[f"{label}: before the history or never listed"] = dg.MetadataValue.int(count.explained)
        if count.missing > count.explained:
            wrong.append(f"{count.missing - count.explained} of {label}")
        if count.examples:
            metadata[f"{label}: examples"] = dg.MetadataValue.text(", ".join(count.examples))
    if not wrong:
        return _Verdict(True, metadata)
    missing = ", ".join(wrong)
    remedy = "A backfill of the days on which these objects were created loads them."
    return _Verdict(False, metadata, f"References to missing objects: {missing}. {remedy}")


def evaluations(pipeline: Pipeline, tables: Collection[str], names: Names) -> list[dg.AssetCheckEvaluation]:
    """Whether each announced change of these tables was read, for callers that report it outside the check's step."""
    dead = dead_by_table(pipeline.inbox) if tables else {}
    return [
        _evaluation(
            names.key_of(object_type),
            CHECK,
            _Verdict(object_type.name not in dead, _metadata(dead.get(object_type.name, {}))),
        )
        for object_type in pipeline.settings.enabled
        if object_type.endpoint and object_type.name in tables
    ]


def nightly_evaluations(pipeline: Pipeline, names: Names) -> Iterator[dg.AssetCheckEvaluation]:
    """The nightly checks of all tables, evaluated now, for callers that report them outside the checks' steps. The
    check `proved` shows the outcomes that are stored."""
    references = _references(pipeline.settings)
    for object_type in pipeline.settings.enabled:
        key = names.key_of(object_type)
        yield _evaluation(key, UNIQUE, _unique(pipeline, object_type))
        yield _evaluation(key, PROVED, _proved(pipeline, object_type))
        if followed_here := references.get(object_type.name):
            verdict = _resolved(pipeline, pipeline.settings, object_type, followed_here)
            yield _evaluation(key, REFERENCES, verdict, dg.AssetCheckSeverity.WARN)


def _evaluation(
    key: dg.AssetKey,
    name: str,
    verdict: _Verdict,
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetCheckEvaluation:
    return dg.AssetCheckEvaluation(
        asset_key=key,
        check_name=name,
        passed=verdict.passed,
        severity=severity,
        description=verdict.description,
        metadata=verdict.metadata,
    )


def last_results(
    instance: dg.DagsterInstance,
    settings: Settings,
    tables: Iterable[ObjectType],
    names: Names,
    *,
    run_id: str = WITHOUT_RUN,
) -> list[dg.AssetCheckEvaluation]:
    """The last results of the nightly checks of these tables, to be reported again after their materialization.

    Dagster ties a result to the asset's latest materialization and shows "Not evaluated" after the next one. A repeated
    result says when it was evaluated. A result of `run_id` itself still counts.
    """
    references = _references(settings)
    repeated = []
    for object_type in tables:
        for name in NIGHTLY:
            if name == REFERENCES and object_type.name not in references:
                continue
            key = dg.AssetCheckKey(names.key_of(object_type), name)
            history = instance.event_log_storage.get_asset_check_execution_history(key, limit=_LOOKED_BACK)
            if not history or history[0].run_id == run_id or _being_evaluated(instance, history[0]):
                continue
            # The newest record may repeat a result older than another run's evaluation.
            evaluated = [
                (_evaluated_at(record.evaluation, record.create_timestamp), record.evaluation)
                for record in history
                if isinstance(record.evaluation, dg.AssetCheckEvaluation)  # and not only planned
            ]
            if not evaluated:
                continue
            at, last = max(evaluated, key=lambda result: result[0])
            repeated.append(
                dg.AssetCheckEvaluation(
                    asset_key=last.asset_key,
                    check_name=last.check_name,
                    passed=last.passed,
                    metadata={**last.metadata, EVALUATED_AT: dg.MetadataValue.timestamp(at)},
                    severity=last.severity,
                    description=last.description,
                )
            )
    return repeated


def _being_evaluated(instance: dg.DagsterInstance, record: Any) -> bool:
    """Whether an unfinished run will evaluate the check; a run that failed before will not."""
    if isinstance(record.evaluation, dg.AssetCheckEvaluation):
        return False
    run = instance.get_run_by_id(record.run_id)
    return run is not None and run.status in UNFINISHED


def _evaluated_at(evaluation: dg.AssetCheckEvaluation, reported_at: float) -> float:
    """When the check ran, in Unix seconds, which may be before its result was reported (again)."""
    evaluated_at = evaluation.metadata.get(EVALUATED_AT)
    return evaluated_at.value if isinstance(evaluated_at, dg.TimestampMetadataValue) else reported_at


def dead_by_table(inbox: Inbox) -> dict[str, dict[str, str]]:
    """Why objects were given up, by table name and id."""
    dead: dict[str, dict[str, str]] = {}
    for entry in inbox.dead():
        table: ObjectType = BY_STRIPE_OBJECT[entry.notification.object]
        dead.setdefault(table.name, {})[entry.notification.object_id] = entry.error or ""
    return dead


def _metadata(problems: Mapping[str, str]) -> dict[str, dg.MetadataValue[Any]]:
    shown = {object_id: dg.MetadataValue.text(error) for object_id, error in list(problems.items())[:_SHOWN]}
    return {"objects given up": dg.MetadataValue.int(len(problems)), **shown}
