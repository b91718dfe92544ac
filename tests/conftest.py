"""Fixtures that tests share: an emulator, a data folder for each test, and the pipeline between them."""

from __future__ import annotations

import gc
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest import mock

import dagster as dg
import duckdb
import pytest
import sqlalchemy as sa

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, SETTLED
from stripe_pipeline.inbox.run_locks import RunLocks
from stripe_pipeline.inbox.tables import METADATA, SHARED
from stripe_pipeline.settings.environment import load_keys
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.sync.report import Progress
from stripe_pipeline.warehouse import comments
from stripe_pipeline.warehouse.private_file import PrivateFile
from stripe_pipeline.warehouse.publisher import Pace
from stripe_pipeline.warehouse.recovery import remove
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests import lake
from tests.postgres_server import postgres_server
from tests.stripe_cli import StripeCli, install

# Tests press Ctrl-C. A shell that runs pytest in the background has SIGINT ignored, and children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

KEYS = {"STRIPE_API_KEY": "sk_live_of_the_tests", "STRIPE_TEST_API_KEY": "sk_test_of_the_tests"}

TEST_KEY = {"STRIPE_TEST_API_KEY": KEYS["STRIPE_TEST_API_KEY"]}

MakePipeline = Callable[..., Pipeline]


def pytest_collection_finish() -> None:
    """Exempt the modules and the collected tests from garbage collection, which takes half of some tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def new_files_by_copy() -> Iterator[None]:
    """Make each layout of the private file once, and copy the file for further warehouses: making the layout takes
    longer than most tests."""
    makes, made = PrivateFile._make, dict[str, bytes]()

    def make(file: PrivateFile) -> None:
        layout = file.layout.fingerprint
        if layout not in made:
            makes(file)
            made[layout] = file.folder.private.read_bytes()
            return
        new_file = file.folder.private.with_name("new.duckdb")
        try:
            new_file.write_bytes(made[layout])
            with duckdb.connect(new_file) as connection:
                connection.execute("UPDATE pipeline.meta SET id = uuid()")
                connection.execute("CHECKPOINT")
            new_file.chmod(0o600)
            new_file.replace(file.folder.private)
            file._prepared = True
        except (duckdb.Error, OSError):
            remove(new_file)
            makes(file)  # which reports what is wrong with the disk or the folder

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(PrivateFile, "_make", make)
        with lake.readable():
            yield
    lake.stop()


@pytest.fixture(autouse=True)
def few_comments(request: pytest.FixtureRequest) -> Iterator[None]:
    """Write no comments of columns, which takes long, except in tests of these comments."""
    are_read = request.node.get_closest_marker("comments_of_columns") is not None
    # Not by monkeypatch, which would then be undone later than the fixtures that set the environment.
    with nullcontext() if are_read else mock.patch.object(comments, "of_columns", return_value=()):
        yield


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[DataFolder]:
    """An empty data folder."""
    with lake.lake_folder(tmp_path / "data") if lake.IN_LAKE else nullcontext(DataFolder(tmp_path / "data")) as empty:
        yield empty


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a Postgres server's first database."""
    with postgres_server() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, folder: DataFolder) -> Iterator[str | None]:
    """The address of an empty inbox: None for SQLite in the data folder, or a URL of Postgres."""
    folder.prepare()
    if request.param == "sqlite":
        yield None
        return
    address: str = request.getfixturevalue("inbox_in_postgres")
    yield address


@pytest.fixture
def inbox_in_postgres(postgres: str) -> Iterator[str]:
    """The address of an empty inbox in Postgres."""
    yield postgres
    engine = sa.create_engine(sa.make_url(postgres).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        for tables in (METADATA, SHARED):
            tables.drop_all(connection)
    engine.dispose()


@pytest.fixture
def server() -> Iterator[Server]:
    """An emulator with an empty shop."""
    shop = Shop()
    # In the first minutes of a day, the previous day is not settled yet. Tests are not about those minutes.
    shop.clock.advance(max(0, SETTLED + 60 - shop.clock.now() % DAY))
    with Server(shop) as running:
        yield running


@pytest.fixture
def shop(server: Server) -> Shop:
    """The emulator's shop."""
    return server.shop


@pytest.fixture
def stripe_cli(server: Server, tmp_path: Path) -> StripeCli:
    """The official Stripe CLI, talking to the emulator."""
    return StripeCli(install(), server.url, tmp_path)


@pytest.fixture
def make_pipeline(server: Server, folder: DataFolder, request: pytest.FixtureRequest) -> Iterator[MakePipeline]:
    """Make pipelines from the emulator into the data folder; other keyword arguments are settings.

    The pipelines have the test mode's key and, with the mark `both_modes`, the live mode's, too.
    """
    keys = TEST_KEY if request.node.get_closest_marker("both_modes") is None else KEYS
    opened: list[Pipeline] = []

    def make(
        environment: dict[str, str] = keys,
        *,
        url: str = server.url,
        retries: Retries | None = None,
        pace: Pace | None = None,
        folder: DataFolder = folder,
        **settings: object,
    ) -> Pipeline:
        start = (datetime.now(UTC) - timedelta(days=60)).date()
        pipeline = Pipeline(
            settings=Settings.model_validate({"history": start} | settings),
            keys=load_keys(environment),
            folder=folder,
            base_url=url,
            retries=retries,
            pace=pace,
        )
        opened.append(pipeline)
        return pipeline

    yield make
    for pipeline in opened:
        pipeline.__exit__()


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline with 60 days of history."""
    return make_pipeline()


class OpenedPipeline:
    """Stands in for the pipeline resource: opens the tests' pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    @property
    def folder(self) -> DataFolder:
        """The tests' data folder."""
        return self._pipeline.folder

    @property
    def run_locks(self) -> RunLocks:
        """The locks of active runs, in the tests' data folder."""
        return RunLocks(self._pipeline.folder, None)

    @contextmanager
    def open(self, progress: Progress | None = None) -> Iterator[Pipeline]:
        """The tests' pipeline."""
        self._pipeline.progress = progress
        yield self._pipeline

    def look(self) -> AbstractContextManager[Warehouse]:
        """The tests' warehouse."""
        return nullcontext(self._pipeline.warehouse)


@pytest.fixture(scope="session")
def dagster_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with Dagster's empty databases, to be copied: Dagster takes two seconds to create them."""
    folder = tmp_path_factory.mktemp("dagster")
    with dg.instance_for_test(temp_dir=str(folder)) as instance:
        instance.get_asset_keys(limit=1)
    return folder


@pytest.fixture
def instance(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance of the test's own: in memory, or in SQLite files with the mark `dagster_files`."""
    if request.node.get_closest_marker("dagster_files") is None:
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    home = shutil.copytree(request.getfixturevalue("dagster_storage"), tmp_path / "dagster")
    with dg.instance_for_test(temp_dir=str(home)) as instance:
        yield instance
