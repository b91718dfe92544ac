"""What can be learnt with each API key before anything is loaded: whose keys they are, what they may read,
whether webhooks come, how fast Stripe may be asked, and what a first load will take.

It only asks, with few requests, and changes nothing, neither at Stripe nor here. How it is shown belongs to `cli`,
how a load's size is judged to `estimate`, what a load reads to `sync`.
"""

from __future__ import annotations

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
from stripe_pipeline.objects import CHARGES, ObjectType, family_of
from stripe_pipeline.preflight.estimate import Estimate, Window, of_children, of_type, sample
from stripe_pipeline.settings.environment import webhook_secrets
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.listing import everything
from stripe_pipeline.stripe_api.rate_limits import ENDPOINT_RATE, LIVE_ACCOUNT_RATE, TEST_ACCOUNT_RATE, RateLimits
from stripe_pipeline.stripe_api.version import API_VERSION
from stripe_pipeline.sync.account import identify
from stripe_pipeline.sync.plan import followed_since, kept_days, unlisted
from stripe_pipeline.warehouse.accounts import UNNAMED, other_account
from stripe_pipeline.warehouse.bookkeeping import Covered, MissingFields
from stripe_pipeline.warehouse.warehouse import Warehouse
from stripe_pipeline.webhooks.endpoints import DESCRIPTION
from stripe_pipeline.webhooks.receiver import PATH

# Whoever waits at a terminal would rather be told that Stripe does not answer.
_ATTEMPTS = 3
_PATIENCE = 20.0
_TIMEOUT = 20.0
# Read requests in 30 days: the read allocation of docs/stripe.md#limits.
_READS_A_TRANSACTION = 500
_LEAST_READS = 10_000
_ALLOCATION_DAYS = 30
_RECORDING = 0.018  # seconds that Dagster takes to record a day of a table, on SQLite
_SECRET_NAMES = {True: "STRIPE_WEBHOOK_SECRET", False: "STRIPE_TEST_WEBHOOK_SECRET"}


@dataclass(frozen=True)
class Table:
    """One enabled object type: whether it can be read, and what is left to load."""

    object_type: ObjectType
    error: StripePipelineError | None = None
    """Why it cannot be read; a child's is its parent's."""
    left: Estimate | None = None
    """None where it cannot be read."""
    days: int = 0
    """How many days are left to list."""
    unseen: tuple[str, ...] = ()
    """Nested fields that the settings leave out or hash and none of the objects looked at has: typos, perhaps."""


@dataclass(frozen=True)
class Endpoint:
    """A webhook endpoint at Stripe that sends to this pipeline's receiver, and what is wrong with it."""

    id: str
    url: str
    disabled: bool
    missing: tuple[str, ...]
    """Event types that are needed and not sent."""
    other_version: str | None
    """The API version it was made with, where that is not ours; empty for the account's own."""

    @property
    def sound(self) -> bool:
        """Whether it sends all that is needed, as it is needed."""
        return not self.disabled and not self.missing and self.other_version is None


@dataclass(frozen=True)
class Webhooks:
    """What brings changes of one mode within seconds; without it the syncs do."""

    endpoints: tuple[Endpoint, ...] = ()
    others: int = 0
    """Endpoints that send elsewhere."""
    error: StripePipelineError | None = None
    """Why the endpoints could not be looked at."""
    secret_name: str = ""
    """The environment variable that holds a signing secret for them, or should."""
    secret_is_set: bool = False


@dataclass(frozen=True)
class Rate:
    """How fast Stripe may be asked, requests a second."""

    account: float
    """Stripe's limit for all requests of the mode."""
    endpoint: float
    """Stripe's limit for one endpoint."""
    share: float
    """How much of them is used, 0 to 1."""
    slowed_down: Mapping[str, int] = field(default_factory=dict)
    """How many of the probing requests Stripe refused for being too many, by the reason it gave."""

    def seconds(self, requests: Mapping[str, int]) -> float:
        """The least time that these requests by endpoint take; endpoints are asked side by side."""
        slowest = max(requests.values(), default=0) / self.endpoint
        return max(slowest, sum(requests.values()) / self.account) / self.share


@dataclass(frozen=True)
class KeyReport:
    """What is known of one key."""

    livemode: bool
    rate: Rate
    account: str | None = None
    """None where Stripe did not say."""
    refused: StripePipelineError | None = None
    """Why nothing can be done with this key; then nothing else was asked."""
    tables: tuple[Table, ...] = ()
    """The enabled object types, in table order."""
    events: StripePipelineError | None = None
    """Why /v1/events, which every sync scans, cannot be read; None where it can."""
    webhooks: Webhooks = Webhooks()
    transactions: int = 0
    """Charges of the last 30 days, about."""
    lacking: tuple[MissingFields, ...] = ()
    """What rows that are here lack, until their days are read again."""

    @property
    def failures(self) -> dict[str, StripePipelineError]:
        """Why something that is needed cannot be read, by what is asked for at Stripe."""
        failed = {family_of(it.object_type).name: it.error for it in self.tables if it.error}
        return failed | ({"events": self.events} if self.events else {})

    @property
    def complete(self) -> bool:
        """Whether everything that is needed can be read."""
        return self.refused is None and not self.failures

    @property
    def left(self) -> Estimate:
        """What is left to load."""
        known = [table.left for table in self.tables if table.left]
        return Estimate(
            sum(it.objects for it in known), sum(it.requests for it in known), all(it.exact for it in known)
        )

    @property
    def seconds(self) -> float:
        """How long loading that takes at the rate allowed, until Dagster knows of it too."""
        reading = self.rate.seconds({it.object_type.name: it.left.requests for it in self.tables if it.left})
        return reading + _RECORDING * sum(table.days for table in self.tables)

    @property
    def allocation(self) -> int:
        """Read requests that Stripe allows in 30 days: so many for each transaction, and some for every account."""
        return max(_LEAST_READS, _READS_A_TRANSACTION * self.transactions)


def check_keys(keys: Sequence[ApiKey], *, settings: Settings, folder: DataFolder, base_url: str) -> list[KeyReport]:
    """Ask Stripe what there is to know about each key, which takes some forty requests at most for one.

    What Stripe refuses is in what is returned. Raises `WarehouseError` if there is a warehouse that cannot be read, and
    `SettingsError` for a signing secret that is none.
    """
    secrets = {key.livemode: _signing_secret(key.livemode, alone=len(keys) == 1) for key in keys}
    warehouse = Warehouse(folder, settings, read_only=True)
    found: list[KeyReport] = []
    try:
        accounts = warehouse.keys.accounts() - {UNNAMED}
        for key in keys:
            report = _check(key, settings, warehouse, accounts, base_url=base_url, secret=secrets[key.livemode])
            if report.account and not report.refused:
                accounts = {report.account}  # The second key's must be the same, wherever nothing is loaded yet.
            found.append(report)
    finally:
        warehouse.close()
    return found


def _check(
    key: ApiKey,
    settings: Settings,
    warehouse: Warehouse,
    accounts: Collection[str],
    *,
    base_url: str,
    secret: tuple[str, bool],
) -> KeyReport:
    families = {name: settings.types[name] for name in {family_of(it).name: None for it in settings.enabled}}
    rate = Rate(LIVE_ACCOUNT_RATE if key.livemode else TEST_ACCOUNT_RATE, ENDPOINT_RATE, settings.rate.share)
    folder = warehouse.folder
    limits = RateLimits.of_stripe(
        livemode=key.livemode,
        share=settings.rate.share,
        # Where there is no data folder yet, nothing else is at it, and nothing is made.
        shared=folder.rates(livemode=key.livemode) if folder.private.exists() else None,
        urgent=True,
    )
    with (
        # Types side by side. The client is closed before the threads are waited for, which ends their waiting.
        ThreadPoolExecutor(len(families) + 2, "check") as threads,
        StripeApi(
            key,
            base_url=base_url,
            limits=limits,
            max_attempts=_ATTEMPTS,
            patience=_PATIENCE,
            timeout=_TIMEOUT,
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
        asked = {name: threads.submit(_probe, api, family, settings, coverage) for name, family in families.items()}
        probed = {name: probe.result() for name, probe in asked.items()}
        return KeyReport(
            key.livemode,
            account=account or None,
            tables=tuple(probed[family_of(it).name].tables[it.name] for it in settings.enabled),
            events=events.result(),
            webhooks=webhooks.result(),
            transactions=probed[CHARGES.name].lately if CHARGES.name in probed else 0,
            lacking=tuple(warehouse.state.lacking(mode)),
            rate=replace(rate, slowed_down=api.slowed_down()),
        )


@dataclass(frozen=True)
class _Probed:
    """What a few pages of a type told of it and its children."""

    tables: dict[str, Table]
    lately: int = 0
    """Objects made in the last 30 days, about."""


def _probe(
    api: StripeApi, family: ObjectType, settings: Settings, coverage: Mapping[tuple[str, date], Covered]
) -> _Probed:
    kept = (family, *(it for it in settings.enabled if it.parent == family.name))
    now = api.now()
    history = kept_days(family, settings, coverage, now)
    days = unlisted([it.name for it in kept], history, coverage, now, since=followed_since(coverage))
    month = (int(now) - _ALLOCATION_DAYS * DAY, int(now) + 1)
    made_up = max(1.0, _ALLOCATION_DAYS / max(1, len(history)))  # a month, where the history is shorter
    lately = float(
        sum(
            covered.rows
            for (name, day), covered in coverage.items()
            if name == family.name and day not in days and day_start(day) >= month[0]
        )
    )
    try:
        if not days:
            newest, left = api.page(f"{family.endpoint}").objects, Estimate(0, 0, True)
            complete = {it.name: Table(it, left=left, unseen=_unseen(settings, family, it, newest)) for it in kept}
            return _Probed(complete, round(lately * made_up))
        windows = _windows(days, until=month[1])
        taken = sample(api, family, windows)
    except Cancelled:
        raise
    except StripePipelineError as error:
        return _Probed({it.name: Table(it, error=error) for it in kept})
    lately += taken.count([(max(start, month[0]), end) for start, end in windows if end > month[0]])
    objects = list(taken.objects.values())
    tables = {
        it.name: Table(
            it,
            left=of_type(taken) if it.name == family.name else of_children(taken, it),
            days=len(days),
            unseen=_unseen(settings, family, it, objects),
        )
        for it in kept
    }
    return _Probed(tables, round(lately * made_up))


def _unseen(
    settings: Settings, family: ObjectType, object_type: ObjectType, objects: Sequence[Mapping[str, Any]]
) -> tuple[str, ...]:
    """The nested fields that the settings name of this type, the listed one or its child, and `objects` do not have."""
    if object_type.name != family.name:
        embedded = [obj.get(f"{object_type.embedded_in}") for obj in objects]
        lists = [it.get("data") if isinstance(it, dict) else it for it in embedded]
        objects = [it for them in lists if isinstance(them, list) for it in them if isinstance(it, dict)]
    return tuple(unseen(settings.rules(object_type), objects))


def _windows(days: Collection[date], *, until: int) -> list[Window]:
    """These days as stretches of time, as they are listed."""
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
        there = everything(api, "/v1/webhook_endpoints")
    except Cancelled:
        raise
    except StripePipelineError as error:
        return Webhooks(error=error, secret_name=name, secret_is_set=is_set)
    ours = [it for it in there if it.get("description") == DESCRIPTION or _path_of(it).endswith(PATH)]
    return Webhooks(
        tuple(_endpoint(it, settings.event_types) for it in ours),
        others=len(there) - len(ours),
        secret_name=name,
        secret_is_set=is_set,
    )


def _endpoint(registered: Mapping[str, Any], needed: Collection[str]) -> Endpoint:
    sent = set(registered.get("enabled_events") or ())
    made_with = registered.get("api_version")
    return Endpoint(
        str(registered.get("id")),
        str(registered.get("url")),
        disabled=registered.get("status") == "disabled",
        missing=() if "*" in sent else tuple(event for event in needed if event not in sent),
        other_version=None if made_with == API_VERSION else made_with or "",
    )


def _path_of(registered: Mapping[str, Any]) -> str:
    return str(registered.get("url")).partition("?")[0].rstrip("/")


def _signing_secret(livemode: bool, *, alone: bool) -> tuple[str, bool]:
    """The variable for this mode's signing secret, and whether there is one in it; the only key's may be in either, as
    the receiver takes both."""
    for mode in (livemode, not livemode) if alone else (livemode,):
        name = _SECRET_NAMES[mode]
        if webhook_secrets({name: os.environ.get(name, "")}, needed=False):
            return name, True
    return _SECRET_NAMES[livemode], False
