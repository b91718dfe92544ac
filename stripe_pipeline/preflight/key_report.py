"""Checks of each API key before the first load: the key's account, its permissions, the webhooks, the rate limits,
and the size of a first load.

The checks only read, with few requests, and change nothing, neither at Stripe nor locally. Displaying the report
belongs to `cli`, estimating a load's size to `estimate`, deciding what to read to `sync`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

from stripe_pipeline.batch import Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_start, stretches
from stripe_pipeline.errors import Cancelled, StripePipelineError
from stripe_pipeline.fields import unseen
from stripe_pipeline.inbox.database import is_postgres
from stripe_pipeline.inbox.shared_rates import shared_rates
from stripe_pipeline.objects import ALL_TYPES, ObjectType, family_of
from stripe_pipeline.preflight.estimate import Estimate, Sample, Window, first_page, of_children, of_type, sample
from stripe_pipeline.settings.environment import webhook_secrets
from stripe_pipeline.settings.model import PartitionSize, Settings
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.listing import everything, expand
from stripe_pipeline.stripe_api.rate_limits import ENDPOINT_RATE, LIVE_ACCOUNT_RATE, TEST_ACCOUNT_RATE, RateLimits
from stripe_pipeline.stripe_api.reader import included_paths
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.stripe_api.version import API_VERSION
from stripe_pipeline.sync.account import identify
from stripe_pipeline.sync.plan import followed_since, kept_days, requests_a_month, unlisted
from stripe_pipeline.warehouse.accounts import UNNAMED, other_account
from stripe_pipeline.warehouse.bookkeeping import Covered, MissingFields
from stripe_pipeline.warehouse.warehouse import Warehouse
from stripe_pipeline.webhooks.endpoints import DESCRIPTION
from stripe_pipeline.webhooks.receiver import PATH

# A user at a terminal should learn soon that Stripe does not answer.
_RETRIES = Retries(max_attempts=3, patience=20.0, silence=20.0)
_RECORDING = 0.018  # seconds that Dagster takes to record a partition of a table, on SQLite
_DAYS_OF_PARTITION = {PartitionSize.DAY: 1, PartitionSize.MONTH: 30}
_SECRET_NAMES = {True: "STRIPE_WEBHOOK_SECRET", False: "STRIPE_TEST_WEBHOOK_SECRET"}


@dataclass(frozen=True)
class Table:
    """One enabled object type: whether it can be read, and how much is left to load."""

    object_type: ObjectType
    error: StripePipelineError | None = None
    """Why the type cannot be read; a child has its parent's error."""
    left: Estimate | None = None
    """None if the type cannot be read."""
    days: int = 0
    """The number of days left to list."""
    unseen: tuple[str, ...] = ()
    """Nested fields that the settings exclude or hash, but no sampled object has: perhaps typos."""


@dataclass(frozen=True)
class Endpoint:
    """A webhook endpoint at Stripe that sends to this pipeline's receiver, and its problems."""

    id: str
    url: str
    disabled: bool
    missing: tuple[str, ...]
    """Required event types that the endpoint does not send."""
    other_version: str | None
    """The endpoint's API version if it is not `API_VERSION`; empty for the account's default."""

    @property
    def sound(self) -> bool:
        """Whether the endpoint is enabled and has no problems."""
        return not self.disabled and not self.missing and self.other_version is None


@dataclass(frozen=True)
class Webhooks:
    """The webhooks of one mode, which deliver changes within seconds; without them, syncs do."""

    endpoints: tuple[Endpoint, ...] = ()
    others: int = 0
    """The number of endpoints that send elsewhere."""
    error: StripePipelineError | None = None
    """Why the endpoints could not be checked."""
    secret_name: str = ""
    """The environment variable for the signing secret, whether or not it is set."""
    secret_is_set: bool = False


@dataclass(frozen=True)
class Rate:
    """The rate limits, in requests per second."""

    account: float
    """Stripe's limit for all requests of the mode."""
    endpoint: float
    """Stripe's limit for one endpoint."""
    share: float
    """The share of the limits to use, 0 to 1."""
    slowed_down: Mapping[str, int] = field(default_factory=dict)
    """How many of the check's requests Stripe refused because of rate limits, by Stripe's reason."""

    def seconds(self, requests: Mapping[str, int]) -> float:
        """The minimum time for these requests, by endpoint; endpoints are read in parallel."""
        slowest = max(requests.values(), default=0) / self.endpoint
        return max(slowest, sum(requests.values()) / self.account) / self.share


@dataclass(frozen=True)
class KeyReport:
    """The result for one key."""

    livemode: bool
    rate: Rate
    account: str | None = None
    """None if Stripe did not name one."""
    refused: StripePipelineError | None = None
    """Why the key cannot be used at all; nothing else was checked then."""
    tables: tuple[Table, ...] = ()
    """The enabled object types, in table order."""
    events: StripePipelineError | None = None
    """Why /v1/events, which every sync scans, cannot be read; None if it can."""
    webhooks: Webhooks = Webhooks()
    lacking: tuple[MissingFields, ...] = ()
    """Fields that stored rows lack, until their days are reread."""
    partitions: PartitionSize = PartitionSize.DAY
    """What Dagster records a partition of."""
    requests_a_month: int = 0
    """The requests that 30 days without changes take, with the settings as they are."""
    requests_of_all_types: int = 0
    """The same with every type switched on."""

    @property
    def failures(self) -> dict[str, StripePipelineError]:
        """The errors of required resources that cannot be read, by Stripe resource."""
        failed = {family_of(table.object_type).name: table.error for table in self.tables if table.error}
        return failed | ({"events": self.events} if self.events else {})

    @property
    def complete(self) -> bool:
        """Whether all required resources can be read."""
        return self.refused is None and not self.failures

    @property
    def left(self) -> Estimate:
        """The total left to load."""
        estimates = [table.left for table in self.tables if table.left]
        return Estimate(
            sum(estimate.objects for estimate in estimates),
            sum(estimate.requests for estimate in estimates),
            all(estimate.exact for estimate in estimates),
        )

    @property
    def seconds(self) -> float:
        """The duration of that load at the allowed rate, including its recording in Dagster."""
        requests = {table.object_type.name: table.left.requests for table in self.tables if table.left}
        partitions = sum(math.ceil(table.days / _DAYS_OF_PARTITION[self.partitions]) for table in self.tables)
        return self.rate.seconds(requests) + _RECORDING * partitions


def check_keys(
    keys: Sequence[ApiKey], *, settings: Settings, folder: DataFolder, base_url: str, inbox_url: str | None = None
) -> list[KeyReport]:
    """Check each key at Stripe, with at most about forty requests per key.

    The reports contain Stripe's refusals. Raises `WarehouseError` if a warehouse exists but cannot be read, and
    `SettingsError` if a signing secret is not valid.
    """
    secrets = {key.livemode: _signing_secret(key.livemode, alone=len(keys) == 1) for key in keys}
    warehouse = Warehouse(folder, settings, read_only=True)
    reports: list[KeyReport] = []
    try:
        accounts = warehouse.keys.accounts() - {UNNAMED}
        for key in keys:
            report = _check(
                key,
                settings,
                warehouse,
                accounts,
                base_url=base_url,
                inbox_url=inbox_url,
                secret=secrets[key.livemode],
            )
            if report.account and not report.refused:
                accounts = {report.account}  # The second key's must be the same, even before the first load.
            reports.append(report)
    finally:
        warehouse.close()
    return reports


def _check(
    key: ApiKey,
    settings: Settings,
    warehouse: Warehouse,
    accounts: Collection[str],
    *,
    base_url: str,
    inbox_url: str | None,
    secret: tuple[str, bool],
) -> KeyReport:
    families = {family.name: family for family in map(family_of, settings.enabled)}
    rate = Rate(LIVE_ACCOUNT_RATE if key.livemode else TEST_ACCOUNT_RATE, ENDPOINT_RATE, settings.rate.share)
    folder = warehouse.folder
    limits = RateLimits.of_stripe(
        livemode=key.livemode,
        share=settings.rate.share,
        # Without a data folder, no other process of this host uses the limits, and none is created.
        shared=shared_rates(folder, inbox_url, livemode=key.livemode)
        if folder.private.exists() or (inbox_url and is_postgres(inbox_url))
        else None,
        urgent=True,
    )
    with (
        # Types in parallel. The client is closed before the threads are joined, which ends their waiting.
        ThreadPoolExecutor(len(families) + 2, "check") as threads,
        StripeApi(
            key,
            base_url=base_url,
            limits=limits,
            retries=_RETRIES,
        ) as api,
    ):
        try:
            account = identify(api, key, warehouse, configured=settings.account)
        except StripePipelineError as error:
            return KeyReport(key.livemode, rate, account=api.named_account, refused=error)
        if account and accounts and account not in accounts:
            refused = other_account(warehouse.folder, min(accounts), account)
            return KeyReport(key.livemode, rate, account=account, refused=refused)
        mode = Mode(account, key.livemode)
        coverage = warehouse.state.coverage(mode)
        events = threads.submit(_why_no_events, api)
        webhooks = threads.submit(_webhooks, api, settings, secret)
        probes = [threads.submit(_probe, api, family, settings, coverage) for family in families.values()]
        tables = {table.object_type.name: table for probe in probes for table in probe.result()}
        return KeyReport(
            key.livemode,
            account=account or None,
            tables=tuple(tables[object_type.name] for object_type in settings.enabled),
            events=events.result(),
            webhooks=webhooks.result(),
            lacking=tuple(warehouse.state.lacking(mode)),
            partitions=settings.partitions,
            requests_a_month=requests_a_month(settings.enabled, settings),
            requests_of_all_types=requests_a_month(ALL_TYPES.values(), settings),
            rate=replace(rate, slowed_down=api.slowed_down()),
        )


def _probe(
    api: StripeApi, family: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered]
) -> list[Table]:
    """The table of a listed type, and those of its children."""
    types = (family, *(child for child in settings.enabled if child.parent == family.name))
    now = api.now()
    if family.whole or family.singleton:
        return _probe_whole(api, types, settings, coverage)
    history = kept_days(family, settings, coverage, now)
    names = [object_type.name for object_type in types]
    days = unlisted(names, history, coverage, now, since=followed_since(coverage))
    params = {**expand(included_paths(family, types[1:])), **family.lists[0]}
    try:
        taken = sample(api, family, _windows(days, until=int(now) + 1), params) if days else None
        objects = list(taken.objects.values()) if taken else api.page(f"{family.endpoint}", params).objects
    except Cancelled:
        raise
    except StripePipelineError as error:
        return [Table(object_type, error=error) for object_type in types]
    return [
        Table(
            object_type,
            left=_left(taken, object_type),
            days=len(days),
            unseen=_unseen(settings, object_type, objects),
        )
        for object_type in types
    ]


def _probe_whole(
    api: StripeApi, types: Sequence[ObjectType], settings: Settings, coverage: Mapping[tuple[str, date], Covered]
) -> list[Table]:
    """The tables of a type that is listed as a whole, or of which there is one object, and of its children."""
    try:
        estimate, objects = first_page(api, types[0])
    except Cancelled:
        raise
    except StripePipelineError as error:
        return [Table(object_type, error=error) for object_type in types]
    if any(table == types[0].name for table, _ in coverage):
        estimate = Estimate(0, 0, True)
    return [
        Table(
            object_type,
            left=Estimate(0, 0, True) if object_type.parent else estimate,
            unseen=_unseen(settings, object_type, objects),
        )
        for object_type in types
    ]


def _left(taken: Sample | None, object_type: ObjectType) -> Estimate:
    """What is left to load of a type, which may be a child of the sampled type; nothing without a sample."""
    if taken is None:
        return Estimate(0, 0, True)
    return of_children(taken, object_type) if object_type.parent else of_type(taken)


def _unseen(settings: Settings, object_type: ObjectType, objects: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """The nested fields that the settings name for this type and no object has.

    `objects`: objects of the type, or of its parent, which hold those of a child.
    """
    if object_type.parent:
        embedded = [parent.get(f"{object_type.embedded_in}") for parent in objects]
        lists = [value.get("data") if isinstance(value, dict) else value for value in embedded]
        objects = [
            child for children in lists if isinstance(children, list) for child in children if isinstance(child, dict)
        ]
    return tuple(unseen(settings.rules(object_type), objects))


def _windows(days: Collection[date], *, until: int) -> list[Window]:
    """The time windows in which these days are listed."""
    return [(day_start(first), min(day_start(last) + DAY, until)) for first, last in stretches(days)]


def _why_no_events(api: StripeApi) -> StripePipelineError | None:
    try:
        api.page("/v1/events", limit=1)
    except Cancelled:
        raise
    except StripePipelineError as error:
        return error
    return None


def _webhooks(api: StripeApi, settings: Settings, secret: tuple[str, bool]) -> Webhooks:
    name, is_set = secret
    try:
        registered = everything(api, "/v1/webhook_endpoints")
    except Cancelled:
        raise
    except StripePipelineError as error:
        return Webhooks(error=error, secret_name=name, secret_is_set=is_set)
    ours = [
        endpoint
        for endpoint in registered
        if endpoint.get("description") == DESCRIPTION or _path_of(endpoint).endswith(PATH)
    ]
    return Webhooks(
        tuple(_endpoint(endpoint, settings.event_types) for endpoint in ours),
        others=len(registered) - len(ours),
        secret_name=name,
        secret_is_set=is_set,
    )


def _endpoint(registered: Mapping[str, Any], needed: Collection[str]) -> Endpoint:
    sent = set(registered.get("enabled_events") or ())
    version = registered.get("api_version")
    return Endpoint(
        str(registered.get("id")),
        str(registered.get("url")),
        disabled=registered.get("status") == "disabled",
        missing=() if "*" in sent else tuple(event for event in needed if event not in sent),
        other_version=None if version == API_VERSION else version or "",
    )


def _path_of(registered: Mapping[str, Any]) -> str:
    return str(registered.get("url")).partition("?")[0].rstrip("/")


def _signing_secret(livemode: bool, *, alone: bool) -> tuple[str, bool]:
    """The variable for this mode's signing secret, and whether it is set; with only one key, either variable may hold
    the secret, as the receiver accepts both."""
    for mode in (livemode, not livemode) if alone else (livemode,):
        name = _SECRET_NAMES[mode]
        if webhook_secrets({name: os.environ.get(name, "")}, needed=False):
            return name, True
    return _SECRET_NAMES[livemode], False
