"""A thousand histories and more, different ones each time; a failure is printed with the seed that repeats it."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import time
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from tests import lake
from tests.whole import test_histories
from tests.whole.test_histories import Histories

HISTORIES = int(os.environ.get("SOAK_HISTORIES", "1000"))
SECONDS = float(os.environ.get("SOAK_HISTORIES_SECONDS", "7200"))
"""Histories that have not begun by then are left out; the printed figures show how many ran."""
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().randrange(10**9)
_AT_ONCE = 20


def histories(number: int) -> Counter[str]:
    """Run some histories in a process of their own; returns the counts of what they did."""
    test_histories.FIGURES.clear()
    with lake.readable():
        run_state_machine_as_test(
            seed(number)(Histories),
            settings=settings(
                max_examples=min(_AT_ONCE, HISTORIES),
                stateful_step_count=12,
                deadline=None,
                database=None,
                phases=[Phase.generate],  # shrinking takes longer than reading the history
                suppress_health_check=list(HealthCheck),
            ),
        )
    lake.stop()
    return test_histories.FIGURES


@pytest.mark.timeout(4 * 3600)
def test_many_histories(capsys: pytest.CaptureFixture[str]) -> None:
    started = time.monotonic()
    did: Counter[str] = Counter()
    failed: dict[int, BaseException] = {}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as processes:
        numbers = itertools.count(SEED)
        jobs: dict[Future[Counter[str]], int] = {}
        while not failed:
            begun = did["histories"] + len(jobs) * _AT_ONCE
            if len(jobs) < (os.cpu_count() or 1) and begun < HISTORIES and time.monotonic() - started < SECONDS:
                number = next(numbers)
                jobs[processes.submit(histories, number)] = number
                continue
            if not jobs:
                break
            for job in wait(jobs, return_when=FIRST_COMPLETED).done:
                number = jobs.pop(job)
                if problem := job.exception():
                    failed[number] = problem
                else:
                    did.update(job.result())
    with capsys.disabled():
        print(
            f"\nhistories: {did['histories']} in {time.monotonic() - started:.0f} s,"
            f" {did['happenings']} happenings, {did['runs']} runs and {did['crashes']} crashes; seeds from {SEED} on"
        )
    for number, problem in failed.items():
        problem.add_note(f"SOAK_SEED={number} repeats it.")
        raise problem
    assert did["histories"] > 0
