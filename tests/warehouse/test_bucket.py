"""Published files in a bucket, on a server that answers as S3."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import boto3
import pytest
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from moto.server import ThreadedMotoServer
from werkzeug.serving import make_server, make_ssl_devcert

import stripe_pipeline
from stripe_emulator import Shop
from stripe_pipeline.cli.processes import free_port
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.warehouse import bucket as module
from stripe_pipeline.warehouse.bucket import Bucket
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.cli.test_cli import (  # noqa: F401 - the command line's fixtures
    Project,
    Run,
    api,
    environment,
    project,
    run,
)
from tests.conftest import MakePipeline
from tests.stripe_state import days_ago
from tests.warehouse.test_warehouse import NOON, batch_of, customer

SECRET = "a-secret-key-of-aws"


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server."""
    started = ThreadedMotoServer(ip_address="127.0.0.1", port=free_port(), verbose=False)
    started.start()
    host, port = started.get_host_and_port()
    yield f"http://{host}:{port}"
    started.stop()


@pytest.fixture
def s3(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the server, which has the empty bucket `shop`; the environment names server and credentials."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": s3_server,
    }.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="shop")
    for key in keys(client):
        client.delete_object(Bucket="shop", Key=key)
    return client


@pytest.fixture
def sent_to(folder: DataFolder) -> DataFolder:
    """A data folder whose published files are sent to the bucket."""
    return DataFolder(folder.root, None, "s3://shop/a/stripe")


def keys(s3: Any) -> list[str]:
    """The names of all objects in the bucket."""
    return [entry["Key"] for entry in s3.list_objects_v2(Bucket="shop").get("Contents", ())]


def versions(s3: Any) -> list[str]:
    """The names of all versions in the bucket, oldest first."""
    return sorted(key for key in keys(s3) if key.startswith("a/stripe/versions/"))


def pointer(s3: Any) -> dict[str, Any]:
    """What the small object says."""
    return dict(json.loads(s3.get_object(Bucket="shop", Key="a/stripe/newest.json")["Body"].read()))


def content(s3: Any, key: str) -> bytes:
    """An object."""
    return bytes(s3.get_object(Bucket="shop", Key=key)["Body"].read())


def load(warehouse: Warehouse, tmp_path: Path, name: str) -> None:
    """Store a customer of this name, and publish."""
    warehouse.load([batch_of(tmp_path, customer(name, object_id=f"cus_{name[::-1]}"), at=NOON)])
    warehouse.publish()


def test_every_version_is_sent_and_the_pointer_names_the_newest(
    make_pipeline: MakePipeline, shop: Shop, s3: Any, sent_to: DataFolder
) -> None:
    shop.create_customer(created=days_ago(shop, 1), name="Ada")
    pipeline = make_pipeline(folder=sent_to)
    assert pipeline.sync().notes == []
    [first] = versions(s3)
    before = content(s3, first)
    shop.create_customer(name="Grace")
    assert pipeline.sync().notes == []
    assert versions(s3)[0] == first
    assert content(s3, first) == before
    newest = pointer(s3)
    assert newest["key"] == versions(s3)[-1] != first
    assert newest["url"] == f"s3://shop/{newest['key']}"
    assert content(s3, newest["key"]) == sent_to.published.resolve().read_bytes()
    assert Bucket(sent_to, "s3://shop/a/stripe").newest()
    assert len(keys(s3)) == 3
    assert SECRET.encode() not in sent_to.sent.read_bytes()


def test_only_changed_parts_are_sent(
    s3: Any, sent_to: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_PART", 5 << 20)
    warehouse = Warehouse(sent_to)
    with warehouse.file.open() as connection:
        connection.execute(
            "CREATE TABLE raw.filler AS SELECT hash(range) a, hash(range + 1) b, hash(range * 7) c FROM range(1500000)"
        )
    load(warehouse, tmp_path, "Ada")
    assert warehouse.bucket
    size = sent_to.published.stat().st_size
    assert size > 30_000_000
    assert warehouse.bucket.sent_bytes == size
    load(warehouse, tmp_path, "Grace")
    assert 0 < warehouse.bucket.sent_bytes < size / 2
    assert content(s3, pointer(s3)["key"]) == sent_to.published.resolve().read_bytes()
    # If somebody has removed the version before, everything is sent again.
    s3.delete_object(Bucket="shop", Key=pointer(s3)["key"])
    load(warehouse, tmp_path, "Edith")
    assert warehouse.unsent is None
    assert content(s3, pointer(s3)["key"]) == sent_to.published.resolve().read_bytes()


def test_versions_are_kept_for_a_day(
    s3: Any, sent_to: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse = Warehouse(sent_to)
    for name in ("Ada", "Grace", "Edith"):
        load(warehouse, tmp_path, name)
    assert len(versions(s3)) == 3
    s3.put_object(Bucket="shop", Key="a/stripe/versions/notes.txt", Body=b"not ours")
    # A day later: of the replaced versions none is left, and the one replaced just now is kept.
    earlier = versions(s3)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 86_410)
    load(warehouse, tmp_path, "Hedy")
    assert set(earlier) & set(versions(s3)) == {"a/stripe/versions/notes.txt"}
    assert pointer(s3)["key"] in versions(s3)


def test_erased_data_leaves_the_bucket_at_once(s3: Any, sent_to: DataFolder, tmp_path: Path) -> None:
    warehouse = Warehouse(sent_to)
    for name in ("Ada", "Grace"):
        load(warehouse, tmp_path, name)
    warehouse.erase(["cus_adA"])
    assert versions(s3) == [pointer(s3)["key"]]
    assert b"Ada" not in content(s3, pointer(s3)["key"])


def test_a_bucket_that_does_not_answer_stops_nothing_and_gets_the_next_version(
    make_pipeline: MakePipeline, shop: Shop, s3: Any, sent_to: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = shop.create_customer(created=days_ago(shop, 1), name="Ada")["id"]
    pipeline = make_pipeline(folder=sent_to)
    pipeline.sync()
    with monkeypatch.context() as down:
        down.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
        shop.create_customer(name="Grace")
        report = pipeline.sync()
        assert report.failures == {}
        [note] = report.notes
        assert "could not be sent to s3://shop/a/stripe: Could not connect" in note
        assert SECRET not in note
        with pytest.raises(WarehouseError, match="earlier versions in the bucket still hold them"):
            pipeline.warehouse.erase([ada])
    assert len(versions(s3)) == 1
    assert pipeline.sync().notes == []
    assert versions(s3) == [pointer(s3)["key"]], "the version with erased data is still there"
    assert content(s3, pointer(s3)["key"]) == sent_to.published.resolve().read_bytes()


def test_check_shows_what_the_bucket_has(
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    s3: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", "s3://shop/a/stripe")
    checked = run("check")
    assert checked.status == 0
    assert "s3://shop/a/stripe has no version yet" in " ".join(checked.out.split())
    load(Warehouse(DataFolder(project.folder.root, None, "s3://shop/a/stripe")), tmp_path, "Ada")
    assert "Bucket: s3://shop/a/stripe has version 1, copied at 20" in " ".join(run("check").out.split())
    s3.delete_object(Bucket="shop", Key=pointer(s3)["key"])
    gone = run("check")
    assert gone.status == 1
    assert "could not be read from s3://shop/a/stripe: HeadObject was answered with 404" in " ".join(gone.err.split())


def test_what_is_wrong_with_a_bucket_is_named(s3: Any, folder: DataFolder, tmp_path: Path) -> None:
    warehouse = Warehouse(DataFolder(folder.root, None, "s3://another/stripe"))
    load(warehouse, tmp_path, "Ada")
    assert "was answered with NoSuchBucket. See that STRIPE_PIPELINE_PUBLISH names" in str(warehouse.unsent)
    with pytest.raises(WarehouseError, match="NoSuchBucket"):
        Bucket(folder, "s3://another/stripe").newest()
    assert Bucket(folder, "s3://shop/nothing").newest() is None


def test_parts_of_a_killed_process_are_removed(s3: Any, sent_to: DataFolder, tmp_path: Path) -> None:
    s3.create_multipart_upload(Bucket="shop", Key="a/stripe/versions/20261101T000000.000000Z-r1.duckdb")
    load(Warehouse(sent_to), tmp_path, "Ada")
    assert s3.list_multipart_uploads(Bucket="shop").get("Uploads", []) == []


def names_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The customers' names as a query on another machine reads them from the bucket."""
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("STRIPE_PIPELINE_PUBLISH", "s3://shop/a/stripe")
    try:
        names = stripe_pipeline.query("SELECT name FROM test.customers")["name"]
    except WarehouseError as error:
        if "httpfs" not in str(error):
            raise
        pytest.skip("DuckDB's extension httpfs cannot be installed here")
    assert not (tmp_path / "elsewhere").exists()
    return list(names)


def test_a_query_on_a_machine_without_the_data_folder_reads_the_bucket(
    s3: Any, sent_to: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load(Warehouse(sent_to), tmp_path, "Ada")
    assert names_elsewhere(tmp_path, monkeypatch) == ["Ada"]


def test_a_server_with_a_certificate_of_its_own_authority_is_sent_to_and_read(
    s3: Any, sent_to: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = make_ssl_devcert(str(tmp_path / "server"), host="localhost")
    app = DomainDispatcherApplication(create_backend_app)
    server = make_server("127.0.0.1", 0, app, threaded=True, ssl_context=(certificate, key))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{server.server_port}")
        warehouse = Warehouse(sent_to)
        load(warehouse, tmp_path, "Ada")
        assert "SSL validation failed" in str(warehouse.unsent)
        monkeypatch.setenv("AWS_CA_BUNDLE", certificate)
        warehouse.publish()
        assert warehouse.unsent is None
        assert names_elsewhere(tmp_path, monkeypatch) == ["Ada"]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("named", ["s3://shop", "s3://shop/", "s3://shop/a/stripe/"])
def test_the_local_file_stays_where_it_is(folder: DataFolder, named: str) -> None:
    at = DataFolder.at(folder.root, {"STRIPE_PIPELINE_PUBLISH": named})
    assert at.bucket == named.rstrip("/")
    assert at.shared.root == folder.root / "published"


def test_the_address_of_a_folder_names_a_folder(folder: DataFolder, tmp_path: Path) -> None:
    at = DataFolder.at(folder.root, {"STRIPE_PIPELINE_PUBLISH": f"file://{tmp_path}/to%20share"})
    assert at.shared.root == tmp_path / "to share"
    assert at.bucket is None
