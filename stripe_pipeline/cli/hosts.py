"""Whether the hosts that share an inbox in Postgres agree on the settings, for commands that open no pipeline.

The command that makes them agree is in `settings`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.settings.environment import inbox_url
from stripe_pipeline.settings.loading import load_settings

if TYPE_CHECKING:
    from stripe_pipeline.inbox.presence import Presence
    from stripe_pipeline.settings.model import Settings


@contextmanager
def agreed(settings: Settings, folder: DataFolder, hash_key: bytes | None, *, go_back: bool = False) -> Iterator[None]:
    """Work with these settings; raises `SettingsError` and `WarehouseError` as `Presence.enter` does."""
    from stripe_pipeline.settings.stored import stored

    with _presence(folder) as presence:
        if presence:
            presence.enter(stored(settings, hash_key), go_back=go_back)
        yield


def check_settings() -> None:
    """Raise `SettingsError` if another host has replaced the settings of this one; changes nothing. Raises
    `WarehouseError`."""
    from stripe_pipeline.fields import load_hash_key
    from stripe_pipeline.settings.stored import stored

    settings, folder = load_settings(), DataFolder.from_environment()
    with _presence(folder) as presence:
        if presence:
            presence.check(stored(settings, load_hash_key(folder, keep=False) if settings.hashes else None))


@contextmanager
def _presence(folder: DataFolder) -> Iterator[Presence | None]:
    """The hosts that share the inbox; None if the inbox is not in Postgres."""
    from stripe_pipeline.inbox.database import is_postgres
    from stripe_pipeline.inbox.inbox import Inbox

    url = inbox_url()
    if not url or not is_postgres(url):
        yield None
        return
    with closing(Inbox(folder, url)) as inbox:
        yield inbox.presence
