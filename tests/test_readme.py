"""What README shows can be run: its queries, on every version of DuckDB that may read the published file."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import back

REPOSITORY = Path(__file__).parent.parent
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
READERS = {"installed": None, "1.4": ".venv/duckdb-1.4", "2.0": ".venv/duckdb-2"}
"""Where `make readers` installs the versions of DuckDB that only read here."""
CLI = REPOSITORY / ".venv/duckdb-cli/bin/duckdb"

READ = """
import json, sys
if sys.argv[2] == "without pytz":
    sys.modules["pytz"] = None
import duckdb
results = []
with duckdb.connect(sys.argv[1], read_only=True) as connection:
    for sql in json.load(sys.stdin):
        try:
            results.append([[str(value) for value in row] for row in connection.execute(sql).fetchall()])
        except Exception as error:
            results.append(f"{type(error).__name__}: {error}")
print(json.dumps([duckdb.__version__, results]))
"""


def queries() -> list[str]:
    """The SQL of README: its SQL blocks, what is passed to `query`, and queries in running text."""
    blocks = re.findall(r"```sql\n(.*?)```", README, re.DOTALL)
    passed = re.findall(r'query\("""(.*?)"""\)', README, re.DOTALL)
    inline = re.findall(r"`(SELECT [^`]*)`", README)
    return [*blocks, *passed, *inline]


def not_installed(what: str) -> None:
    """Skip the test, or fail it in CI, where everything has to be tested."""
    reason = f"{what} is not installed; `make readers` does that"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def read(published: Path, version: str, sql: list[str], *, pytz: bool = True) -> list[Any]:
    """The rows of each query, as text, or its error, read by that version of DuckDB in a process of its own."""
    folder = READERS[version]
    if folder and not (REPOSITORY / folder).exists():
        not_installed(f"DuckDB {version}")
    answer = subprocess.run(
        [sys.executable, "-c", READ, f"{published}", "with pytz" if pytz else "without pytz"],
        input=json.dumps(sql),
        env=os.environ | ({"PYTHONPATH": f"{REPOSITORY / folder}"} if folder else {}),
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found, results = json.loads(answer)
    assert version == "installed" or found.startswith(version)
    return list(results)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The published file of a shop with some days of history."""
    shop = Shop()
    shop.seed_history(5)
    with Server(shop) as server:
        folder = DataFolder(tmp_path_factory.mktemp("readme") / "data")
        settings = Settings.model_validate({"history": "10 days"})
        with Pipeline(settings=settings, keys=load_keys(KEYS), folder=folder, base_url=server.url) as pipeline:
            pipeline.tick()
        yield folder.published


@pytest.mark.parametrize("version", READERS)
def test_readmes_queries_work_and_every_table_can_be_fetched(published: Path, version: str) -> None:
    shown = queries()
    assert len(shown) >= 5
    tables = [
        f"SELECT * FROM {schema}.{table} LIMIT 20" for schema in ("raw", "live", "test") for table in OBJECT_TYPES
    ]
    tables += [f"SELECT * FROM {schema}.payments LIMIT 20" for schema in ("live", "test")]
    tables += [f"SELECT * FROM pipeline.{table}" for table in ("coverage", "cursors", "inbox", "published")]
    results = read(published, version, [*shown, *tables])
    assert [it for it in results if isinstance(it, str)] == []
    by_query = dict(zip(shown, results, strict=False))
    assert all(by_query.values()), [sql for sql, rows in by_query.items() if not rows]


@pytest.mark.parametrize("version", READERS)
def test_times_need_pytz_as_readme_says(published: Path, version: str) -> None:
    [result] = read(published, version, ["SELECT created FROM live.charges"], pytz=False)
    assert "pytz" in README
    assert isinstance(result, str), "README need not name pytz any more"
    assert "pytz" in result


def test_the_join_that_readme_warns_of_finds_nothing_before_duckdb_2(published: Path) -> None:
    bare = "SELECT count(*) > 0 FROM live.payment_intents WHERE metadata->>'order_id' = metadata->>'order_id'"
    careful = "SELECT count(*) > 0 FROM live.payment_intents WHERE (metadata->>'order_id') = (metadata->>'order_id')"
    for version in READERS:
        results = read(published, version, [bare, careful])
        assert results[1] == [["True"]]
        if version != "installed" and version < "2":
            assert results[0] != [["True"]]


def test_duckdbs_own_command_line_reads_the_file(published: Path) -> None:
    if not CLI.exists():
        not_installed("DuckDB's command line")
    done = subprocess.run(
        [sys.executable, CLI, "-readonly", "-csv", published, "SELECT count(*) AS n FROM live.charges"],
        env=os.environ | {"PYTHONPATH": f"{CLI.parent.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.split()[1]) > 0


def test_the_file_tells_its_version_and_how_far_events_were_read(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    sql = "SELECT version, published_at, live_read_until, test_read_until FROM pipeline.published"

    def now() -> list[tuple[Any, ...]]:
        with duckdb.connect(str(folder.published), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    shop.create_customer(created=back(shop, 5))
    pipeline = make_pipeline({"STRIPE_API_KEY": KEYS["STRIPE_TEST_API_KEY"]})
    began = datetime.now(UTC)
    pipeline.tick()
    [(version, published_at, live, test)] = now()
    assert began <= published_at <= datetime.now(UTC)
    assert live is None
    assert test is not None
    with duckdb.connect(str(folder.published), read_only=True) as opened:
        before = opened.execute(sql).fetchall()
        shop.create_customer()
        pipeline.tick()
        [(later, _, _, read_until)] = now()
        assert (later > version, read_until > test) == (True, True)
        assert opened.execute(sql).fetchall() == before, "an open connection stays at its version"
    file = folder.published.readlink()
    pipeline.publish()
    assert folder.published.readlink() == file, "nothing has changed"
