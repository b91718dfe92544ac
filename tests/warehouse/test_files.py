"""Files that are damaged, missing, full or another user's; who may read them; and removing all of them."""

from __future__ import annotations

import contextlib
import os
import pty
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import duckdb
import filelock
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.definitions import build_defs
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.inbox.notification import notifications_of
from stripe_pipeline.warehouse.recovery import is_whole
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.cli.test_cli import (  # noqa: F401 - the command line's fixtures
    ACCOUNT,
    COMMAND,
    Project,
    Run,
    api,
    assert_refused,
    environment,
    loaded,
    loaded_once,
    project,
    run,
)
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import assert_equal_to_stripe, days_ago, rows
from tests.variants import varied
from tests.warehouse.test_warehouse import NOON, TEST, batch_of, customer

Damage = Callable[[bytes], bytes]


def noise(at: float) -> Damage:
    """4 KB of other bytes, this far into the file."""

    def damage(content: bytes) -> bytes:
        start = int(at * len(content))
        return content[:start] + bytes(255 - byte for byte in content[start : start + 4096]) + content[start + 4096 :]

    return damage


def names_of(folder: DataFolder) -> set[str]:
    """The names of the published customers."""
    return {row["name"] for row in rows(folder.published, "test.customers")}


# Commands that only read


def test_commands_that_only_read_create_nothing_and_need_no_key(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.remove_dagster_storage()
    project.settings("history: 3 days\nretention: 6 months\nobjects: {customers: {fields: {hash: [email]}}}")
    before = sorted(project.root.rglob("*"))
    assert run("check").status == 0
    assert run("clean").status == 0
    for name in KEYS:
        monkeypatch.delenv(name)
    foreseen = run("prune", "--dry-run")
    assert (foreseen.status, foreseen.err) == (0, "")
    assert "charges" in foreseen.out
    assert sorted(project.root.rglob("*")) == before


def test_the_asset_creates_nothing_in_a_dry_run(
    project: Project,  # noqa: F811
    instance: dg.DagsterInstance,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    project.settings("history: 3 days\nretention: 6 months")
    monkeypatch.chdir(project.root)
    for name in KEYS:
        monkeypatch.delenv(name)
    job = build_defs().resolve_implicit_global_asset_job_def()
    result = job.execute_in_process(
        instance=instance,
        asset_selection=[dg.AssetKey("retention")],
        run_config={"ops": {"retention": {"config": {"dry_run": True}}}},
    )
    assert result.success
    assert not project.folder.root.exists()


def test_a_private_file_without_a_schema_counts_as_empty(project: Project, run: Run) -> None:  # noqa: F811
    project.folder.private.parent.mkdir(parents=True)
    with duckdb.connect(":memory:") as connection:
        connection.execute(f"ATTACH '{project.folder.private}' AS made")
    assert run("prune", "--dry-run").status == 0
    checked = run("check")
    assert (checked.status, checked.err) == (0, "")
    assert run("sync").status == 0
    assert rows(project.folder.published, "live.customers")


# Damage


@pytest.mark.parametrize(
    "damage",
    varied(
        [
            pytest.param(lambda content: b"", id="empty"),
            pytest.param(lambda content: content[:100], id="cut in its header"),
            pytest.param(lambda content: content[:12_288], id="cut behind its headers"),
            pytest.param(lambda content: bytes(12_288) + content[12_288:], id="headers zeroed"),
            pytest.param(lambda content: b"no database " * 1000, id="text"),
            pytest.param(noise(0.0), id="noise at its start"),
            pytest.param(None, id="missing"),
        ],
        quick=2,
    ),
)
def test_a_private_file_that_cannot_be_opened_is_restored_and_catches_up(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, damage: Damage | None
) -> None:
    pipeline = make_pipeline()
    shop.create_customer(created=days_ago(shop, 20), name="Ada")
    grace = shop.create_customer(created=days_ago(shop, 20), name="Grace")["id"]
    pipeline.sync()
    pipeline.sync()
    shop.delete_customer(grace)
    shop.create_customer(name="Edith")
    # Applied and not published: the copy lacks the changes, and the inbox counts them as done.
    pipeline.inbox.add([notification for event in shop.events(False) for notification in notifications_of(event)])
    assert pipeline.drain(most=200).applied
    pipeline.__exit__()
    if damage:
        damaged = damage(folder.private.read_bytes())
        folder.private.write_bytes(damaged)
    else:
        folder.private.unlink()

    report = make_pipeline().sync()
    [note] = [note for note in report.notes if "restored from the version published at" in note]
    assert str(folder.private) in note
    if damage:
        assert folder.damaged.read_bytes() == damaged
        assert str(folder.damaged) in note
    assert_equal_to_stripe(shop, folder.published)
    assert names_of(folder) == {"Ada", "Edith"}
    assert not make_pipeline().sync().notes
    assert sorted(path.name for path in folder.private.parent.iterdir() if path.suffix != ".json") == sorted(
        {"stripe.duckdb", "writer.lock", "publish.lock"} | ({"damaged.duckdb"} if damage else set())
    )


@pytest.mark.both_modes
def test_damage_that_a_run_meets_ends_it_and_the_next_one_goes_on(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    pipeline = make_pipeline()
    shop.seed_history(5)
    pipeline.sync()
    pipeline.__exit__()
    with duckdb.connect(str(folder.private), read_only=True) as connection:
        [(block,)] = connection.execute("SELECT max(block_id) FROM pragma_storage_info('raw.charges')").fetchall()
    with folder.private.open("r+b") as file:
        # In the rows, not in the catalog: the file can still be opened.
        file.seek(3 * 4096 + block * 262_144)
        file.write(bytes(4096))
    pipeline = make_pipeline()
    with pytest.raises(WarehouseError, match=r"is damaged \(.*restored from the version .*This run .* Run again"):
        pipeline.warehouse.prune()
    shop.create_customer(name="Edith")
    assert not make_pipeline().sync().failures
    assert_equal_to_stripe(shop, folder.published)


def test_damage_in_blocks_that_are_not_read_is_found_at_night(folder: DataFolder, tmp_path: Path) -> None:
    warehouse = Warehouse(folder)
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    warehouse.publish()
    undamaged = folder.private.read_bytes()
    detected = 0
    for block in range(12_288, len(undamaged), 262_144):
        content = bytearray(undamaged)
        content[block + 5000] ^= 255
        folder.private.write_bytes(content)
        try:
            Warehouse(folder).prune()
        except WarehouseError:
            detected += 1
        assert is_whole(folder.private)
        assert Warehouse(folder).ask("SELECT name FROM raw.customers") == [("Ada",)]
    assert detected


def test_rows_that_a_run_read_before_the_file_was_restored_are_not_stored(folder: DataFolder, tmp_path: Path) -> None:
    slow, other = Warehouse(folder), Warehouse(folder)
    slow.load([batch_of(tmp_path, customer("Ada"), at=NOON)], cursors={(TEST, "events"): NOON})
    slow.publish()
    folder.private.write_bytes(b"")
    assert other.state.cursors(TEST) == {"events": NOON}
    with pytest.raises(WarehouseError, match="restored while this run was under way"):
        slow.load([batch_of(tmp_path, customer("Grace"), at=NOON + 9)], cursors={(TEST, "events"): NOON + 9})
    assert other.state.cursors(TEST) == {"events": NOON}
    slow.state.identity()  # as the next run does
    slow.load([batch_of(tmp_path, customer("Grace"), at=NOON + 9)], cursors={(TEST, "events"): NOON + 9})
    assert other.state.cursors(TEST) == {"events": NOON + 9}


def test_the_newest_undamaged_version_is_restored_and_later_changes_are_published(
    folder: DataFolder, tmp_path: Path
) -> None:
    warehouse = Warehouse(folder)
    for n, name in enumerate(("Ada", "Grace")):
        warehouse.load([batch_of(tmp_path, customer(name), at=NOON + n)])
        warehouse.publish()
    newest = folder.published.resolve()
    newest.chmod(0o600)
    newest.write_bytes(newest.read_bytes()[:20_000])
    folder.private.write_bytes(b"noise")
    restored = Warehouse(folder)
    assert restored.ask("SELECT name FROM raw.customers") == [("Ada",)]
    restored.load([batch_of(tmp_path, customer("Edith"), at=NOON + 9)])
    restored.publish()
    assert [row["name"] for row in rows(folder.published, "raw.customers")] == ["Edith"]


@pytest.mark.parametrize("damage", ["middle", "without its file"])
def test_a_damaged_write_ahead_log_leaves_the_rows_of_the_file(folder: DataFolder, tmp_path: Path, damage: str) -> None:
    warehouse = Warehouse(folder)
    warehouse.load([batch_of(tmp_path, customer("Ada"), at=NOON)])
    if damage == "without its file":
        warehouse.publish()
    warehouse.close()
    writes = (
        "import duckdb, os, sys; c = duckdb.connect(sys.argv[1]); c.execute('PRAGMA disable_checkpoint_on_shutdown');"
        "c.execute('CREATE TABLE IF NOT EXISTS main.more AS SELECT 42 AS n'); os._exit(0)"
    )
    log = folder.private.with_name("stripe.duckdb.wal")
    subprocess.run([sys.executable, "-c", writes, str(folder.private)], check=True)
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 255
    log.write_bytes(content)
    if damage == "without its file":
        folder.private.unlink()
    again = Warehouse(folder)
    assert again.ask("SELECT name FROM raw.customers") == [("Ada",)]
    assert again.state.identity().restored is not None
    assert not log.exists()


@pytest.mark.thorough
def test_a_damaged_file_that_cannot_be_restored_is_left_with_a_remedy_that_works(
    loaded: Project,  # noqa: F811
    run: Run,  # noqa: F811
    api: Server,  # noqa: F811
) -> None:
    shutil.rmtree(loaded.folder.versions)
    damaged = loaded.folder.private.read_bytes()[:10_000]
    loaded.folder.private.write_bytes(damaged)
    remedy = "`stripe-pipeline clean`, then `stripe-pipeline sync`"
    for command in (("sync",), ("check",), ("prune",)):
        assert_refused(run(*command), remedy)
    assert_refused(run("sync"), "is damaged", remedy)
    assert loaded.folder.private.read_bytes() == damaged
    assert run("clean", "--yes").status == 0
    assert run("sync").status == 0
    assert_equal_to_stripe(api.shop, loaded.folder.published)


# Removing everything


def test_clean_leaves_a_folder_unchanged_that_the_pipeline_never_used(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    tmp_path: Path,
) -> None:
    theirs = [tmp_path / "home" / name for name in ("private/diary.txt", "logs/apache.log", "hash.key")]
    for file in theirs:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("somebody's")
    cleaned = run("clean", "--keep-history", "--yes", STRIPE_PIPELINE_DATA=str(tmp_path / "home"))
    assert cleaned.status == 0, cleaned.err
    assert [file.read_text() for file in theirs] == ["somebody's"] * 3


def test_clean_names_the_files_that_it_removes_asks_and_leaves_other_files(
    loaded: Project,  # noqa: F811
    run: Run,  # noqa: F811
    api: Server,  # noqa: F811
) -> None:
    (loaded.folder.root / "mine.txt").write_text("not of the pipeline")
    before = loaded.stored()
    refused = run("clean")
    assert refused.status == 2
    assert "--yes" in refused.err
    assert f"rows of {ACCOUNT}" in refused.out
    assert str(loaded.folder.root) in refused.out
    assert str(loaded.root / ".dagster") in refused.out
    assert loaded.stored() == before
    assert answer(loaded, "n") == 1
    assert loaded.stored() == before
    assert answer(loaded, "y") == 0
    assert [path.name for path in loaded.folder.root.iterdir()] == ["mine.txt"]
    assert not (loaded.root / ".dagster").exists()
    assert run("sync").status == 0
    assert_equal_to_stripe(api.shop, loaded.folder.published)
    (loaded.folder.root / "mine.txt").unlink()
    assert run("clean", "--yes", "--keep-history").status == 0
    assert not loaded.folder.root.exists()
    assert (loaded.root / ".dagster").exists()


def answer(project: Project, text: str) -> int:  # noqa: F811
    """The exit status of `clean` on a terminal on which this is typed."""
    terminal, command_end = pty.openpty()
    with subprocess.Popen([COMMAND, "clean"], cwd=project.root, stdin=command_end, stdout=subprocess.PIPE) as ended:
        os.write(terminal, f"{text}\n".encode())
        ended.communicate(timeout=120)
    os.close(command_end)
    os.close(terminal)
    return ended.returncode


def test_clean_leaves_a_folder_that_is_in_use(loaded: Project, run: Run) -> None:  # noqa: F811
    folder = loaded.folder
    before = loaded.stored()
    for lock in (folder.running, folder.runs / "some_run.lock"):
        with filelock.FileLock(lock):
            refused = run("clean", "--yes")
            assert refused.status == 2
            assert f"{folder.root} is in use" in refused.err
    inbox = Inbox(folder)
    held = subprocess.Popen(
        [sys.executable, "-c", f"import sqlite3; c = sqlite3.connect({str(folder.inbox)!r});"
         " c.execute('SELECT * FROM pokes').fetchall(); print('open', flush=True); input()"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert held.stdout
    held.stdout.readline()
    inbox.close()
    refused = run("clean", "--yes")
    assert refused.status == 2
    assert f"{folder.inbox} is in use" in refused.err
    held.communicate("\n")
    assert loaded.stored() == before


# A disk that is full


@contextlib.contextmanager
def files_up_to(size: int) -> Iterator[None]:
    """Keeps files of this process from growing beyond that many bytes, as a full disk does, for every user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.both_modes
@pytest.mark.parametrize(
    "size", varied([40_000, 1_000_000, 0, 4_096, 12_288, 280_000, 550_000, 1_300_000, 2_000_000], quick=2)
)
def test_a_full_disk_is_named_at_every_step_and_leaves_nothing_half_written(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, size: int
) -> None:
    shop.seed_history(5)
    with files_up_to(size), errors_are_explained():
        make_pipeline().sync()
    left_over = {path.name for path in folder.private.parent.glob("*.duckdb*")}
    assert left_over <= {"stripe.duckdb", "stripe.duckdb.wal"}
    assert [*folder.spool.glob("*")] == []
    for version in folder.versions.glob("*/*"):
        assert_opens(version)
    assert not make_pipeline().sync().failures
    assert_equal_to_stripe(shop, folder.published)


@pytest.mark.both_modes
@pytest.mark.parametrize("share", varied([0.7, 0.0, 0.3, 0.95, 1.02]))
def test_a_disk_that_fills_up_keeps_the_stored_rows(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, share: float
) -> None:
    shop.seed_history(5)
    pipeline = make_pipeline()
    pipeline.sync()
    pipeline.__exit__()
    before = folder.published.resolve().read_bytes()
    for _ in range(40):
        shop.trade()
    with files_up_to(int(share * len(before))), errors_are_explained():
        pipeline = make_pipeline()
        pipeline.sync()
        pipeline.prune()
    for version in folder.versions.glob("*/*"):
        assert_opens(version)
    assert not make_pipeline().sync().failures
    assert_equal_to_stripe(shop, folder.published)


@contextlib.contextmanager
def errors_are_explained() -> Iterator[None]:
    """The block may end with an error; fails unless the error says that a file cannot grow and what to do."""
    problem = None
    try:
        yield
    except WarehouseError as error:
        problem = error
    if problem:
        assert "too large" in str(problem) or "disk I/O error" in str(problem), problem
        assert "ulimit" in problem.remedy or "inbox" in problem.what, problem


def assert_opens(database: Path) -> None:
    """Fail unless the file is a complete database."""
    with duckdb.connect(str(database), read_only=True) as connection:
        connection.execute("SELECT bit_xor(hash(t)) FROM raw.charges t").fetchall()


# Permissions


def modes(folder: DataFolder) -> dict[str, int]:
    """The modes of everything in the data folder, by path."""
    by_path = {}
    for path in (folder.root, *folder.root.rglob("*")):
        if not path.is_symlink():
            by_path[str(path.relative_to(folder.root))] = stat.S_IMODE(path.stat().st_mode)
    return by_path


@pytest.fixture
def usual_umask() -> Iterator[None]:
    """The umask of most machines: everyone may read new files."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.parametrize(
    ("readers", "of_folder", "of_file"),
    [("owner", 0o700, 0o400), ("group", 0o750, 0o440), ("everyone", 0o755, 0o444)],
)
def test_others_may_read_the_published_file_as_far_as_the_settings_say_and_nothing_else(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    usual_umask: None,
    readers: str,
    of_folder: int,
    of_file: int,
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    pipeline = make_pipeline(
        published={"readable_by": readers}, objects={"customers": {"fields": {"hash": ["email"]}}}, on_delete="remove"
    )
    pipeline.sync()
    for version in modes(folder):
        parts = Path(version).parts
        of_versions = version == "." or parts[0] == "published"
        mode = modes(folder)[version]
        is_file = (folder.root / version).is_file()
        if of_versions:
            assert mode == (of_file if is_file else of_folder), version
        else:
            assert mode == (0o600 if is_file else 0o700), version


def test_the_published_file_is_given_to_the_folders_group(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    make_pipeline(published={"readable_by": "group"}).sync()
    group = 12345 if os.geteuid() == 0 else max(os.getgroups())
    os.chown(folder.root, -1, group)
    make_pipeline(published={"readable_by": "group"}).sync()
    shop.create_customer(created=days_ago(shop, 1), name="Grace")
    make_pipeline(published={"readable_by": "group"}).sync()
    published = [folder.versions, *folder.versions.rglob("*")]
    assert len(published) > 2
    assert {path.stat().st_gid for path in published} == {group}
    assert folder.private.stat().st_mode & 0o077 == 0


def test_a_folder_that_was_open_to_all_is_closed_once_with_a_note(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    make_pipeline().sync()
    for path in (folder.root, *folder.root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    [note] = make_pipeline().sync().notes
    assert "readable_by" in note
    assert not [path for path, mode in modes(folder).items() if mode & 0o077]
    assert make_pipeline().sync().notes == []
    assert make_pipeline(published={"readable_by": "group"}).sync().notes == []
    assert modes(folder)["."] == 0o750


def test_a_data_folder_with_other_files_keeps_its_mode(make_pipeline: MakePipeline, folder: DataFolder) -> None:
    folder.root.mkdir()
    (folder.root / "others.txt").touch()
    folder.root.chmod(0o755)
    make_pipeline().sync()
    assert modes(folder)["."] == 0o755
    assert modes(folder)["private"] == 0o700


def test_files_of_another_user_are_named_with_a_remedy(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Path(tempfile.mkdtemp())  # which another user can reach, unlike `tmp_path`
    try:
        folder = DataFolder(root / "data")
        monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(folder.root))
        folder.prepare()
        log = folder.private.with_name("stripe.duckdb.wal")
        for path in (folder.rates(livemode=True), folder.hash_key, folder.inbox, folder.lock, folder.private, log):
            path.touch(mode=0o600)
            message = as_another_user(root, path)
            assert str(path) in message, message
            assert "PermissionError" not in message
            if os.geteuid() == 0:
                assert "It belongs to root" in message
                assert f"(`sudo chown -R nobody {folder.root}`)" in message
            else:
                assert "access" in message
            path.chmod(0o600)
            path.unlink()
        message = as_another_user(root, folder.spool)
        assert str(folder.spool) in message
        assert "belongs to" in message or "access" in message
    finally:
        shutil.rmtree(root)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_the_remedy_for_files_of_another_user_names_a_command_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        new, elsewhere = root / "a b" / "data", root / "elsewhere"
        monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(new))
        root.chmod(0o755)
        new.parent.mkdir(mode=0o755)
        elsewhere.mkdir(mode=0o755)
        assert f"`sudo install -d -m 700 -o nobody '{new}'`" in message_for_nobody(lambda: DataFolder(new).prepare())
        message = message_for_nobody(lambda: DataFolder(elsewhere).check_access())
        assert f"(`sudo chown -R nobody {elsewhere}`)" in message
        assert "data folder" not in message
        assert f"write to {elsewhere}" in message_for_nobody(lambda: DataFolder(elsewhere / "data").prepare())
        monkeypatch.setattr("pwd.getpwuid", {0: SimpleNamespace(pw_name="root")}.__getitem__)
        message = message_for_nobody(lambda: DataFolder(elsewhere).check_access())
        assert f"give it to user 65534 (`sudo chown -R 65534 {elsewhere}`)" in message
    finally:
        shutil.rmtree(root)


def as_another_user(root: Path, path: Path) -> str:
    """The pipeline's error for a data folder in which only `path` does not belong to its user."""
    if os.geteuid() != 0:
        path.chmod(0)
        return error_of(lambda: DataFolder(root / "data").prepare())
    for other in (root, root / "data", *(root / "data").rglob("*")):
        os.chown(other, 65534, 65534)
    os.chown(path, 0, 0)
    return message_for_nobody(lambda: DataFolder(root / "data").prepare())


def message_for_nobody(work: Callable[[], object]) -> str:
    """The error that `work` ends with for the user `nobody`."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        os.setgid(65534)
        os.setuid(65534)
        os.write(writing, error_of(work).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        message = pipe.read()
    os.waitpid(child, 0)
    return message


def error_of(work: Callable[[], object]) -> str:
    """The error that `work` ends with."""
    try:
        work()
    except WarehouseError as error:
        return str(error)
    except BaseException as error:
        return repr(error)
    return "nothing"
