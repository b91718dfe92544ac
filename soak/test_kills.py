"""Runs that are killed at any moment lose nothing, double nothing, and leave a published file that opens."""

from __future__ import annotations

import os
import random
import subprocess
import time

import pytest

from soak.trading import assert_equal_in_the_end, assert_whole, run_once, start, trading, version_of
from stripe_pipeline.data_folder import DataFolder

KILLS = int(os.environ.get("SOAK_KILLS", "200"))
SYNCS = 2.0
"""The longest time before a process is killed, in durations of an undisturbed sync: time to load and to publish."""


@pytest.mark.timeout(3600)
def test_killed_at_any_moment(folder: DataFolder, capsys: pytest.CaptureFixture[str]) -> None:
    moments = random.Random(1)
    started = time.monotonic()
    published, versions = -1, 0
    with trading(0.5, folder) as (server, closed):
        run_once(server, folder)
        began = time.monotonic()
        run_once(server, folder)
        longest = SYNCS * (time.monotonic() - began)
        for n in range(KILLS):
            process = start(server, folder, ("sync", "drain", "backfill")[n % 3])
            assert process.stdout
            process.stdout.readline()
            try:
                process.wait(moments.uniform(0, longest))
            except subprocess.TimeoutExpired:
                process.kill()
            _, errors = process.communicate()
            assert process.returncode == -9, errors.decode()
            assert_whole(folder.published)
            revision = version_of(folder.published)
            assert revision >= published
            versions += revision > published
            published = revision
        assert_equal_in_the_end(server, closed, folder)
        rows = sum(
            len(server.shop.collection(name, mode)) for name in ("charges", "invoices") for mode in (True, False)
        )
    with capsys.disabled():
        print(
            f"\nkills: {KILLS} in {time.monotonic() - started:.0f} s, {published} loads committed and"
            f" {versions} versions published meanwhile;"
            f" at the end nothing lost, nothing twice ({rows} charges and invoices)"
        )
