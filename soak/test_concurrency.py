"""Four processes load, one cleans up and four read for minutes: no error on any side."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from soak.trading import assert_equal_in_the_end, output_of, start, trading
from stripe_pipeline.data_folder import DataFolder
from tests.lake import variables

SECONDS = float(os.environ.get("SOAK_SECONDS", "180"))
LIVE, TEST = "STRIPE_API_KEY=sk_live_soak_1", "STRIPE_TEST_API_KEY=sk_test_soak_1"
WRITERS = (
    ("sync", "--keys", LIVE, TEST),
    ("backfill", "--keys", LIVE, TEST),
    ("drain", "--keys", LIVE, TEST, "--pause", "0.1"),
    ("sync", "--keys", TEST.replace("_1", "_2"), "--pause", "2"),
    ("prune", "--keys", LIVE, TEST, "--pause", "5"),
)
"""All start at once, on a folder that does not exist yet. Each runs twice at least, so that cleaning up happens amid
loads however slow the machine is."""
HOLDS = (0.0, 0.0, 0.5, 5.0)
"""Seconds for which the readers hold their connections."""


@pytest.mark.timeout(1800)
def test_writers_and_readers(folder: DataFolder, capsys: pytest.CaptureFixture[str]) -> None:
    with trading(0.2, folder) as (server, closed), ExitStack() as ends:
        started = time.monotonic()
        readers = [
            subprocess.Popen(
                [sys.executable, "-m", "soak.reads", str(folder.root), str(hold)],
                env=os.environ | variables(folder),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for hold in HOLDS
        ]
        writers = [start(server, folder, *options, "--seconds", str(SECONDS), "--least", "2") for options in WRITERS]
        for process in (*readers, *writers):
            ends.callback(process.kill)  # if one of them fails, the others are still running
        results = [json.loads(output_of(writer)) for writer in writers]
        seconds = time.monotonic() - started
        reads = [took for reader in readers for took in json.loads(output_of(reader).splitlines()[-1])]
        assert_equal_in_the_end(server, closed, folder)
    loads, publishes = ([took for result in results for took in result[part]] for part in ("loads", "publishes"))
    with capsys.disabled():
        print(
            f"\nconcurrency: {seconds:.0f} s, {'+'.join(str(result['runs']) for result in results)} runs,"
            f" {len(loads)} loads ({len(loads) / seconds:.1f}/s, {_spread(loads)}),"
            f" {len(publishes)} publishes ({_spread(publishes)}), {len(reads)} reads ({_spread(reads)}), 0 errors"
        )


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return f"{seconds}"
    return f"p50 {statistics.median(seconds):.3f} s, p95 {statistics.quantiles(seconds, n=20)[18]:.3f} s"
