"""The settings on which hosts that share an inbox in Postgres agree.

This module has the command `use-settings`. Whether hosts agree is found out in `hosts`.
"""

from __future__ import annotations

from stripe_pipeline.cli.app import app
from stripe_pipeline.cli.hosts import agreed
from stripe_pipeline.cli.terminal import out
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.settings.environment import inbox_url
from stripe_pipeline.settings.loading import load_settings


@app.command()
def use_settings() -> None:
    """Go back to the settings of this host, which another host has replaced.

    Hosts that share an inbox in Postgres must agree on the settings that decide what is stored. From now on, those of
    this host apply, and a host with other ones is refused. New settings apply without this command.
    """
    from stripe_pipeline.fields import load_hash_key
    from stripe_pipeline.inbox.database import is_postgres

    url = inbox_url()
    if not url or not is_postgres(url):
        out.print("The inbox is not in Postgres, so no other host has replaced the settings of this one.")
        return
    settings, folder = load_settings(), DataFolder.from_environment()
    hash_key = load_hash_key(folder, keep=False) if settings.hashes else None
    with agreed(settings, folder, hash_key, go_back=True):
        out.print("The settings of this host apply from now on; a host with other ones is refused.")
