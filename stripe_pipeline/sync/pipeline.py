"""The sync, the drain and the backfill: decide what to read from Stripe, and load it into the warehouse.

All end in the same two steps, reading (`stripe_api.reader`) and loading (`warehouse`). This module does not depend on
Dagster; `assets` reports what a run did.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import date

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY
from stripe_pipeline.errors import (
    Cancelled,
    StripePipelineError,
    WarehouseError,
)
from stripe_pipeline.fields import FieldFilter, load_hash_key
from stripe_pipeline.identity import Identity, Restored
from stripe_pipeline.inbox.database import is_postgres
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import Claim
from stripe_pipeline.inbox.owner import check_owner
from stripe_pipeline.inbox.shared_rates import shared_rates
from stripe_pipeline.objects import ObjectType, family_of
from stripe_pipeline.permissions import Permissions
from stripe_pipeline.settings.configuration import Configuration
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.settings.stored import stored
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.deadline import Deadline
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.rate_limits import RateLimits
from stripe_pipeline.stripe_api.reader import Reader
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.account import Stored, mode_of, remember_name
from stripe_pipeline.sync.context import EVENTS, Context
from stripe_pipeline.sync.loading import THREADS
from stripe_pipeline.sync.plan import BALANCE_TRANSACTIONS, OVERLAP
from stripe_pipeline.sync.report import Progress, Report
from stripe_pipeline.sync.run import Run
from stripe_pipeline.sync.working_files import working_folder
from stripe_pipeline.warehouse.pruning import Pruned
from stripe_pipeline.warehouse.publisher import Pace
from stripe_pipeline.warehouse.recovery import holds_warehouse
from stripe_pipeline.warehouse.warehouse import Warehouse

logger = logging.getLogger(__name__)
SYNC_TIME = 3600.0  # seconds that a sync may read; the next one continues
DRAIN_TIME = 25.0  # seconds that a drain may read: a tick of the sensor must have loaded and published within a minute

_STANDARD = Configuration()
# One request must not use up the time of a drain.
_DRAIN_RETRIES = Retries(max_attempts=2, patience=10.0, silence=10.0, request_time=10.0)


class Pipeline:
    """The settings, keys and stores that runs use. Use as a context manager."""

    def __init__(
        self,
        *,
        settings: Settings,
        keys: Sequence[ApiKey],
        folder: DataFolder,
        base_url: str,
        inbox_url: str | None = None,
        progress: Progress | None = None,
        current_settings: Callable[[], Settings] | None = None,
        retries: Retries | None = None,
        pace: Pace | None = None,
        environment: Mapping[str, str] = os.environ,
    ) -> None:
        """`current_settings` rereads the settings, for a file that may change during the run.
        `retries` applies to all runs, instead of their own; `pace` to publishing, instead of the usual one;
        `environment` may hold the key of hashed fields.
        """
        self.settings = settings
        self.folder = folder
        self._keys, self._modes = keys, {key.livemode for key in keys}
        self._base_url = base_url
        self._retries = retries
        self.progress = progress
        folder.prepare()
        self._was_open = Permissions(folder, settings.published.readable_by).restrict()
        rules = {name: settings.rules(object_type) for name, object_type in settings.types.items()}
        hash_key = load_hash_key(folder, environment) if settings.hashes else None
        self.fields = FieldFilter(rules, hash_key)
        self._deciding = stored(settings, hash_key)
        self.warehouse = Warehouse(folder, settings, hash_key, current_settings=current_settings, pace=pace)
        self._inbox_url = inbox_url
        self.inbox = Inbox(folder, inbox_url)
        self._stored: Stored | None = None

    @classmethod
    def from_environment(
        cls, progress: Progress | None = None, sources: Configuration = _STANDARD, *, take_over: bool = False
    ) -> Pipeline:
        """The pipeline of the environment and the settings file, or of other `sources`; raises `SettingsError`, and
        `WarehouseError` if this would make a second warehouse for the inbox, unless it is to `take_over` the inbox."""
        if not take_over:
            check_second(sources)
        return cls(
            settings=sources.settings(),
            keys=sources.keys(),
            folder=sources.folder,
            base_url=sources.base_url(),
            inbox_url=sources.inbox_url(),
            progress=progress,
            current_settings=sources.settings,
            environment=sources.variables,
        )

    def __enter__(self) -> Pipeline:
        try:
            self.inbox.presence.enter(self._deciding)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.inbox.close()
        self.warehouse.close()

    def sync(self, days: Iterable[date] = (), *, within: float = SYNC_TIME) -> Report:
        """Bring every enabled table up to date with Stripe, and list `days` completely.

        Reading stops after `within` seconds: the objects read are stored, the report names the tables that are not
        up to date, and the next sync continues from there.
        Raises `StripePipelineError` if nothing could be done at all; the report has the errors of single tables.
        """
        return self._run(lambda run: run.sync(set(days)), self.settings.enabled, within=within)

    def backfill(self, days: Iterable[date], tables: Iterable[str] | None = None) -> Report:
        """List `days` (UTC, of `created`) of these tables completely, even if they were listed before.

        If the same backfill was stopped or failed and listed something within the last hour, it is resumed.
        A table's parent and children are included. Raises as `sync` does.
        """
        object_types = self.settings.enabled if tables is None else tuple(self.settings.types[name] for name in tables)
        return self._run(lambda run: run.backfill(set(days)), object_types, urgent=False)

    def drain(
        self, *, most: int, report: Report | None = None, due: float | None = None, within: float = DRAIN_TIME
    ) -> Report:
        """Reread the objects of the notifications that may be tried at `due`, at most `most` objects per mode.

        `due`: Unix seconds, by default the present; infinity for all notifications. A notification whose object could
        not be read `within` so many seconds waits in the inbox. Adds to `report` if one is given. Publishing is left to
        the caller. Raises as `sync` does.
        """
        until = time.time() if due is None else due
        return self._run(
            lambda run: run.drain(most, until),
            self.settings.enabled,
            report=report,
            retries=_DRAIN_RETRIES,
            within=within,
            publish=False,
        )

    def prove(self, *, sample: bool = True) -> Report:
        """Compare the tables with Stripe's balance, a `sample` of objects and themselves, for `pipeline.proof`; raises
        as `sync` does. The report is only returned: the progress keeps that of the load before."""
        every = self.settings.enabled
        return self._run(lambda run: run.proving.all(sample=sample), every, within=SYNC_TIME, finishes=False)

    def prune(self) -> dict[str, Pruned]:
        """Remove rows past their retention, and notifications applied long ago; by table name.

        Raises `WarehouseError`.
        """
        self._claim_inbox()
        pruned = self.warehouse.prune()
        self.inbox.forget(applied_before=time.time() - self.settings.inbox.keep_days * DAY)
        self.publish()
        return pruned

    def has_due_notifications(self, due: float | None = None) -> bool:
        """Whether `drain` has work; may be called ten times a second. `due`: as for `drain`."""
        return self.inbox.has_due(due, modes=self._modes)

    def objects_to_read(self, due: float | None = None) -> int:
        """The number of objects to `drain`."""
        return self.inbox.objects_due(due, modes=self._modes)

    def publish(self, *, send_within: float | None = None) -> None:
        """Make the stored rows visible, with the notifications not applied; `send_within`: as for the warehouse."""
        identity = self._stored.identity if self._stored else self.warehouse.state.identity()
        # A new inbox does not know the failures; the sync restores them from the file.
        failing = self.inbox.rows(failing=True) if self.inbox.is_complete(identity) else None
        self.warehouse.publish(failing=failing, send_within=send_within)

    def adopt_inbox(self) -> int:
        """Take the inbox over from another warehouse; returns how many notifications wait again.

        The next sync rereads Stripe's events of the last 30 days. Raises `WarehouseError`.
        """
        return self._claim_inbox(take_over=True).reopened or 0

    def _claim_inbox(self, *, take_over: bool = False) -> Claim:
        def identity() -> Identity:
            self._stored = Stored.read(self.warehouse, self._keys)
            return self._stored.identity

        self.inbox.presence.enter(self._deciding)  # before the warehouse is brought to these settings
        return self.inbox.claim(identity, self._modes, take_over=take_over)

    def _run(
        self,
        work: Callable[[Run], None],
        object_types: Iterable[ObjectType],
        *,
        report: Report | None = None,
        retries: Retries | None = None,
        within: float = math.inf,
        urgent: bool = True,
        publish: bool = True,
        finishes: bool = True,
    ) -> Report:
        # Another process that writes must not use up the time for reading: a drain might never get to read anything.
        report, deadline = report or Report(), Deadline(within, waited=lambda: self.warehouse.file.waited)
        stopped: StripePipelineError | None = None
        claim = self._claim_inbox()
        stored = self._stored
        assert stored
        if claim.reopened is not None:
            report.note(_reopened(claim.reopened))
        if self._was_open:
            self._was_open = False
            report.note(_closed(self.folder))
        if claim.warehouse.restored:
            _catch_up(self.warehouse, self.inbox, claim.warehouse.restored, report)
        if unread := {True, False} - self._modes:
            # Nobody needs the notifications of a mode that has no key and was never loaded.
            self.inbox.drop_modes(self._modes | (unread & stored.modes))
        asked_for = list({family_of(object_type).name: None for object_type in object_types})
        # Balance transactions are also read because other rows refer to them.
        named = [BALANCE_TRANSACTIONS] if self.settings.types[BALANCE_TRANSACTIONS] in self.settings.enabled else []
        families = {name: self.settings.types[name] for name in [*asked_for, *named]}
        with working_folder(self.folder) as working, ExitStack() as threads:
            # Each type has its own threads: those that wait for one endpoint do not hold up the others.
            executors = {name: threads.enter_context(ThreadPoolExecutor(THREADS, name)) for name in families}
            for n, key in enumerate(self._keys):
                limits = RateLimits.of_stripe(
                    livemode=key.livemode,
                    share=self.settings.rate.share,
                    shared=shared_rates(self.folder, self._inbox_url, livemode=key.livemode),
                    urgent=urgent,
                )
                own = deadline.part(len(self._keys) - n)
                with StripeApi(
                    key, base_url=self._base_url, limits=limits, deadline=own, retries=self._retries or retries
                ) as api:
                    try:
                        mode, cursors = mode_of(
                            api, key, self.warehouse, stored.keys[key.fingerprint], configured=self.settings.account
                        )
                        context = Context(
                            api=api,
                            mode=mode,
                            cursors=cursors,
                            warehouse=self.warehouse,
                            inbox=self.inbox,
                            settings=self.settings,
                            report=report,
                            progress=self.progress,
                            identity=claim.warehouse,
                            asked_for=asked_for,
                            readers={
                                name: Reader(
                                    api,
                                    family,
                                    _children_read(name, self.settings),
                                    mode,
                                    self.fields,
                                    folder=working / ("live" if mode.livemode else "test") / name,
                                    executor=executors[name],
                                )
                                for name, family in families.items()
                            },
                        )
                        try:
                            work(Run(context))
                        finally:
                            context.count_requests()
                            remember_name(api, key, self.warehouse, mode)
                    except Cancelled:
                        raise
                    except StripePipelineError as error:
                        # The other key's mode is not affected.
                        stopped = stopped or error
        # The rows stored before an error are correct and may be published.
        if publish:
            try:
                self.publish()
                if self.warehouse.unsent:
                    report.note(f"{self.warehouse.unsent}")
            except WarehouseError as error:
                stopped = stopped or error
        if stopped is not None:
            raise stopped
        if self.progress and finishes:
            self.progress.finished(report)
        return report


@contextmanager
def look(sources: Configuration = _STANDARD) -> Iterator[Warehouse]:
    """The warehouse of the environment and the settings file, or of other `sources`, read-only: needs no key and
    creates nothing. Raises `SettingsError`."""
    settings, folder = sources.settings(), sources.folder
    hash_key = load_hash_key(folder, sources.variables, keep=False) if settings.hashes else None
    warehouse = Warehouse(folder, settings, hash_key, read_only=True)
    try:
        yield warehouse
    finally:
        warehouse.close()


def check_second(sources: Configuration = _STANDARD) -> None:
    """Raise `WarehouseError`, before any file is created, if the inbox belongs to a warehouse that is not here."""
    folder, url = sources.folder, sources.inbox_url()
    if url and is_postgres(url) and not holds_warehouse(folder):
        check_owner(folder, url)


def _children_read(name: str, settings: Settings) -> tuple[ObjectType, ...]:
    """The types read with their parent of this name."""
    return tuple(child for child in settings.enabled if child.parent == name)


def _catch_up(warehouse: Warehouse, inbox: Inbox, restored: Restored, report: Report) -> None:
    """After the warehouse was restored from a copy, reread the objects that it lacks.

    The sync scans the events from the copy's cursor; the inbox would skip the events that it knows.
    """
    report.note(f"{restored}.")
    [(cursor,)] = warehouse.ask(f"SELECT epoch_us(min(read_until)) / 1e6 FROM pipeline.cursors WHERE name = '{EVENTS}'")
    inbox.wait_again(
        applied_since=restored.since - OVERLAP, created_since=-math.inf if cursor is None else cursor - OVERLAP
    )
    warehouse.state.caught_up()


def _reopened(number: int) -> str:
    return (
        f"The inbox belonged to another warehouse, or to a later state of this one: {number} notifications are applied"
        " again"
    )


def _closed(folder: DataFolder) -> str:
    return (
        f"Other users of this machine could read files in {folder.root} and no longer can; `published: {{readable_by:"
        " group}` in the settings lets the folder's group read the published file."
    )
