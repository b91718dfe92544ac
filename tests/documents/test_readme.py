"""The queries that README and the pages in `docs` show run, on every version of DuckDB that may read the file."""

from __future__ import annotations

import json
import os
import re
import shlex
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
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import days_ago

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
PAGES = ("README.md", "docs/tables.md", "docs/operating.md", "docs/connect.md")
"""The pages that show queries."""
READERS = {"installed": None, "1.4": ".venv/duckdb-1.4", "2.0": ".venv/duckdb-2"}
"""The folders of the versions of DuckDB that only read the file; `make readers` installs them."""
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


def queries(page: str) -> list[str]:
    """The SQL of a page: its SQL blocks, the arguments of `query`, and queries in running text.

    Blocks that need a bucket are left out: tests/warehouse/test_bucket.py reads from one.
    """
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^ *```sql\n(.*?)```", text, re.DOTALL | re.MULTILINE)
    here = [block for block in blocks if "s3://" not in block]
    statements = [statement.query for block in here for statement in duckdb.extract_statements(block)]
    passed = re.findall(r'query\(("{3}|")(.*?)\1\)', text, re.DOTALL)
    inline = re.findall(r"`(SELECT [^`]*)`", text)
    return [*statements, *(sql for _, sql in passed), *inline]


def not_installed(component: str) -> None:
    """Skip the test, or fail it in CI, where everything has to be tested."""
    reason = f"{component} is not installed; `make readers` installs it"
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
    duckdb_version, results = json.loads(answer)
    assert version == "installed" or duckdb_version.startswith(version)
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
            pipeline.sync()
        yield folder.published


@pytest.mark.parametrize("version", READERS)
def test_all_queries_work_and_every_table_can_be_fetched(published: Path, version: str) -> None:
    by_page = {page: queries(page) for page in PAGES}
    assert {page: len(shown) > 0 for page, shown in by_page.items()} == dict.fromkeys(PAGES, True)
    shown = [sql for of_page in by_page.values() for sql in of_page]
    assert len(shown) >= 10
    tables = [
        f"SELECT * FROM {schema}.{table} LIMIT 20" for schema in ("raw", "live", "test") for table in DEFAULT_TYPES
    ]
    tables += [f"SELECT * FROM {schema}.payments LIMIT 20" for schema in ("live", "test")]
    tables += [f"SELECT * FROM pipeline.{table}" for table in ("coverage", "cursors", "inbox", "published")]
    results = read(published, version, [*shown, *tables])
    assert [error for error in results if isinstance(error, str)] == []
    empty = [sql for sql, rows in zip(shown, results, strict=False) if not rows]
    assert [sql for sql in empty if "FROM pipeline.inbox" not in sql] == []


def test_the_first_query_prints_the_header_that_readme_shows(published: Path) -> None:
    """Runs the command as README has it; the amounts in README are those of the demo's shop."""
    [(command, shown)] = re.findall(r"```sh\n(\.venv/bin/python -c .*?)```\n\n```text\n(.*?)```", README, re.DOTALL)
    answer = subprocess.run(
        ["sh", "-c", command.replace(".venv/bin/python", shlex.quote(sys.executable), 1)],
        cwd=REPOSITORY,
        env=os.environ | {"STRIPE_PIPELINE_DATA": f"{published.parent}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert answer.splitlines()[0].split() == shown.splitlines()[0].split()
    assert len(answer.splitlines()) > 1


@pytest.mark.parametrize("version", READERS)
def test_times_need_pytz_as_the_pages_say(published: Path, version: str) -> None:
    [result] = read(published, version, ["SELECT created FROM live.charges"], pytz=False)
    for page in ("README.md", "docs/tables.md"):
        assert "pytz" in (REPOSITORY / page).read_text(encoding="utf-8")
    assert isinstance(result, str), "README and docs/tables.md need not name pytz any more"
    assert "pytz" in result


def test_the_join_that_the_tables_page_warns_of_finds_nothing_before_duckdb_2(published: Path) -> None:
    bare = "SELECT count(*) > 0 FROM live.payment_intents WHERE metadata->>'order_id' = metadata->>'order_id'"
    careful = "SELECT count(*) > 0 FROM live.payment_intents WHERE (metadata->>'order_id') = (metadata->>'order_id')"
    for version in READERS:
        results = read(published, version, [bare, careful])
        assert results[1] == [["True"]]
        if version != "installed" and version < "2":
            assert results[0] != [["True"]]


def test_duckdbs_command_line_reads_the_file(published: Path) -> None:
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


@pytest.mark.both_modes
def test_the_file_says_its_version_and_how_far_events_were_read(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    sql = "SELECT version, published_at, live_read_until, test_read_until FROM pipeline.published"

    def now() -> list[tuple[Any, ...]]:
        with duckdb.connect(str(folder.published), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    shop.create_customer(created=days_ago(shop, 5))
    pipeline = make_pipeline({"STRIPE_API_KEY": KEYS["STRIPE_TEST_API_KEY"]})
    began = datetime.now(UTC)
    pipeline.sync()
    [(version, published_at, live, test)] = now()
    assert began <= published_at <= datetime.now(UTC)
    assert live is None
    assert test is not None
    with duckdb.connect(str(folder.published), read_only=True) as opened:
        before = opened.execute(sql).fetchall()
        shop.create_customer()
        pipeline.sync()
        [(later, _, _, read_until)] = now()
        assert (later > version, read_until > test) == (True, True)
        assert opened.execute(sql).fetchall() == before, "an open connection stays at its version"
    file = folder.published.resolve()
    pipeline.publish()
    assert folder.published.resolve() == file, "nothing has changed"
