"""The hosts that work with an inbox, at the same time or one after another, whose settings must agree on what is
stored.

`settings.stored` says which settings those are; the locks belong to `holders`.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import sqlalchemy as sa

from stripe_pipeline.errors import SettingsError
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.holders import NOW, Held, Holders, Kind
from stripe_pipeline.inbox.tables import SETTINGS

_SHOWN = 5  # settings that a message names


class Presence:
    """Whether this process is known to work with the inbox, and the settings that apply to all who do. SQLite serves
    one host, whose settings nobody compares."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held = ExitStack()
        self._entered = False

    def enter(self, settings: Mapping[str, str], *, go_back: bool = False) -> None:
        """Let other processes know that this one works with the inbox, with these `settings.stored`, until `leave`.

        New settings apply from then on. Raises `SettingsError` if another process works with other ones, or if another
        host has replaced these, unless this host is to `go_back` to them; and `WarehouseError`.
        """
        if self._entered or self._database.is_sqlite:
            return
        detail = _serialized(settings)

        def admit(connection: sa.Connection, others: Sequence[Held]) -> None:
            if not go_back:
                _refuse_replaced(connection, detail)
            _refuse_others(others, settings)
            _apply(connection, detail)

        holding = Holders(self._database).holding(Kind.SETTINGS, str(uuid4()), detail.decode(), admit=admit)
        self._held.enter_context(holding)
        self._entered = True

    def check(self, settings: Mapping[str, str]) -> None:
        """Raise `SettingsError` if another host has replaced these `settings.stored`, as `enter` does; changes
        nothing. Raises `WarehouseError`."""
        if not self._database.is_sqlite:
            with self._database.reading() as connection:
                _refuse_replaced(connection, _serialized(settings))

    def hosts(self) -> list[str]:
        """The hosts that work with the inbox at the moment, by name. None is known of an inbox in SQLite."""
        return [] if self._database.is_sqlite else Holders(self._database).working()

    def leave(self) -> None:
        """End what `enter` began, if anything."""
        self._held.close()
        self._entered = False

    def forget_settings(self, connection: sa.Connection) -> None:
        """Let any settings apply, as to a new inbox."""
        if not self._database.is_sqlite:
            connection.execute(sa.delete(SETTINGS))


def _serialized(settings: Mapping[str, str]) -> bytes:
    return orjson.dumps(dict(settings), option=orjson.OPT_SORT_KEYS)


def _digest(settings: bytes) -> str:
    return hashlib.sha256(settings).hexdigest()


def _applying(connection: sa.Connection) -> sa.Row[Any] | None:
    """The settings that apply, if any do so far."""
    return connection.execute(sa.select(SETTINGS).order_by(SETTINGS.c.number.desc()).limit(1)).first()


def _refuse_replaced(connection: sa.Connection, settings: bytes) -> None:
    """Raise `SettingsError` if another host has replaced these settings. A host may go back to its own."""
    applying = _applying(connection)
    if applying is None or applying.host == platform.node() or applying.id == _digest(settings):
        return
    if connection.execute(sa.select(SETTINGS.c.id).where(SETTINGS.c.id == _digest(settings))).first():
        since = datetime.fromtimestamp(applying.since, UTC)
        names = _differing(orjson.loads(settings), orjson.loads(applying.settings))
        raise SettingsError(
            f"Host {applying.host} replaced the settings that this host has, on {since:%Y-%m-%d at %H:%M} UTC: {names}",
            "Give this host the newer settings and the same version of stripe_pipeline; or, to make all hosts go back"
            " to the settings of this one, run `stripe-pipeline use-settings` here",
        )


def _refuse_others(others: Sequence[Held], settings: Mapping[str, str]) -> None:
    """Raise `SettingsError` if one of the other processes works with other settings."""
    for other in others:
        if names := _differing(settings, orjson.loads(other.detail)):
            raise SettingsError(
                f"A process on host {other.host} that works with the same inbox has other settings: {names}",
                "Give both hosts the same settings file and the same STRIPE_PIPELINE_HASH_KEY; if you have just"
                " changed them, run again once that process has ended",
            )


def _apply(connection: sa.Connection, settings: bytes) -> None:
    """Let these settings apply from now on, if they do not yet."""
    applying = _applying(connection)
    if applying is not None and applying.id == _digest(settings):
        return
    connection.execute(sa.delete(SETTINGS).where(SETTINGS.c.id == _digest(settings)))
    connection.execute(
        sa.insert(SETTINGS).values(
            id=_digest(settings),
            number=applying.number + 1 if applying is not None else 1,
            settings=settings.decode(),
            host=platform.node(),
            since=NOW,
        )
    )


def _differing(settings: Mapping[str, str], others: Mapping[str, str]) -> str:
    """The names of the settings that differ, to show."""
    differing = sorted(name for name in settings.keys() | others if settings.get(name) != others.get(name))
    more = len(differing) - _SHOWN
    return ", ".join(differing[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
