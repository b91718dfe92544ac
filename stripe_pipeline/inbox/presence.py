"""The hosts that work with an inbox at the same time, whose settings must agree on what is stored.

`settings.stored` says which settings those are; the locks belong to `holders`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from uuid import uuid4

import orjson

from stripe_pipeline.errors import SettingsError
from stripe_pipeline.inbox.database import Database
from stripe_pipeline.inbox.holders import Held, Holders, Kind

_SHOWN = 5  # settings that a message names


class Presence:
    """Whether this process is known to work with the inbox. SQLite serves one host, whose settings nobody compares."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._held = ExitStack()
        self._entered = False

    def enter(self, settings: Mapping[str, str]) -> None:
        """Let other processes know that this one works with the inbox, with these `settings.stored`, until `leave`.

        Raises `SettingsError` if another process works with other ones, and `WarehouseError`.
        """
        if self._entered or self._database.is_sqlite:
            return
        detail = orjson.dumps(dict(settings), option=orjson.OPT_SORT_KEYS).decode()
        holding = Holders(self._database).holding(Kind.SETTINGS, str(uuid4()), detail, admit=_agreeing(settings))
        self._held.enter_context(holding)
        self._entered = True

    def hosts(self) -> list[str]:
        """The hosts that work with the inbox at the moment, by name. None is known of an inbox in SQLite."""
        return [] if self._database.is_sqlite else Holders(self._database).working()

    def leave(self) -> None:
        """End what `enter` began, if anything."""
        self._held.close()
        self._entered = False


def _agreeing(settings: Mapping[str, str]) -> Callable[[list[Held]], None]:
    def admit(others: list[Held]) -> None:
        for other in others:
            theirs: dict[str, str] = orjson.loads(other.detail)
            differing = sorted(name for name in settings.keys() | theirs if settings.get(name) != theirs.get(name))
            if differing:
                more = len(differing) - _SHOWN
                names = ", ".join(differing[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
                raise SettingsError(
                    f"A process on host {other.host} that works with the same inbox has other settings: {names}",
                    "Give both hosts the same settings file and the same STRIPE_PIPELINE_HASH_KEY; if you have just"
                    " changed them, run again once that process has ended",
                )

    return admit
