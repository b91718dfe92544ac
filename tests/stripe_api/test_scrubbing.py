"""Errors, logs and bookkeeping never hold people's data: e-mail addresses and values of objects."""

from __future__ import annotations

import logging
import traceback
from pathlib import Path

import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.batch import Batch, Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.errors import StripePipelineError, WarehouseError, scrub
from stripe_pipeline.objects import CUSTOMERS
from stripe_pipeline.stripe_api.retries import Retries
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.conftest import MakePipeline
from tests.stripe_state import ask

EMAIL = "jane.roe+shop@mail.example.com"
ENCODED = "jane.roe%2Bshop%40mail.example.com"


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        (f"Invalid email address: {EMAIL}", "Invalid email address: <e-mail address>"),
        ("Invalid email address: jane@home.", "Invalid email address: <e-mail address>."),
        (f"No such customer: '{EMAIL}'", "No such customer: '<e-mail address>'"),
        (f"GET /v1/customers/{ENCODED} failed", "GET /v1/customers/<e-mail address> failed"),
        ("o'hara@example.com, müller@straße.de", "<e-mail address>, <e-mail address>"),
        (f'{{"email":"{EMAIL}"}}', '{"email":"<e-mail address>"}'),
        ("postgresql://user:***@host/db and postgresql://user@host/db",) * 2,
        ("Give one like postgresql://user:password@host/database (with %40 for an @ in the password)",) * 2,
        ("http://jane:open-sesame@proxy.example.com:3128/", "http://jane:***@proxy.example.com:3128/"),
        ("postgresql://shop:pass-word@h, then jane@h", "postgresql://shop:***@h, then <e-mail address>"),
        ("postgresql://shop:open@sesame@host/db", "postgresql://shop:***@<e-mail address>/db"),
        (
            f"https://example.com/u/{EMAIL}?again={EMAIL}",
            "https://example.com/u/<e-mail address>?again=<e-mail address>",
        ),
        ("rk_live_...abcd, sk_test_****abcd, whsec_abcd.", "rk_live_…, sk_test_…, whsec_…."),
    ],
)
def test_addresses_and_secrets_are_scrubbed(text: str, scrubbed: str) -> None:
    assert scrub(text) == scrubbed
    assert f"{StripePipelineError(text, text)}" == f"{scrubbed.rstrip('.')}. {scrubbed.rstrip('.')}."


def test_scrubbing_a_long_text_takes_little_time() -> None:
    for text in ("a" * 500_000, "a'" * 250_000, "a.b" * 150_000 + "@", "%40" * 150_000, "://a:" * 100_000):
        assert len(scrub(text)) <= len(text) + 20


def assert_nowhere(folder: DataFolder, text: str) -> None:
    """Fail if Jane is named in the text, or in the bookkeeping of any file."""
    held = text + str(ask(folder.published, "FROM pipeline.inbox"))
    for path in folder.root.glob("inbox*"):
        held += path.read_bytes().decode("latin-1")
    for name in ("jane", "Jane", "Roe"):
        assert name not in held


@pytest.mark.parametrize("status", [400, 402, 404, 500])
def test_an_address_in_an_error_of_stripe_reaches_no_log_and_no_file(
    server: Server,
    shop: Shop,
    make_pipeline: MakePipeline,
    folder: DataFolder,
    caplog: pytest.LogCaptureFixture,
    status: int,
) -> None:
    pipeline = make_pipeline(retries=Retries(first_pause=0.0))
    caplog.set_level(logging.DEBUG)
    customer = shop.create_customer()["id"]
    pipeline.sync()
    shop.update_customer(customer, description="changed")
    body = {"error": {"type": "invalid_request_error", "message": f"Invalid email address: {EMAIL}"}}
    server.faults.append(Fault(path=f"/v1/customers/{customer}", status=status, body=body, times=None))
    report = pipeline.sync()
    problems = "".join(f"{error!r} {error}" for error in report.failures.values())
    assert_nowhere(folder, problems + caplog.text)
    assert "e-mail address" in str(ask(folder.published, "SELECT error FROM pipeline.inbox")) or status == 404


@pytest.mark.parametrize("created", ["Jane Roe", {"name": "Jane Roe"}, [EMAIL]])
def test_an_odd_object_is_named_without_its_values(
    server: Server,
    shop: Shop,
    pipeline: Pipeline,
    folder: DataFolder,
    caplog: pytest.LogCaptureFixture,
    created: object,
) -> None:
    customer = shop.create_customer()
    page = {"object": "list", "url": "/v1/customers", "has_more": False, "data": [customer | {"created": created}]}
    server.faults.append(Fault(path="/v1/customers$", body=page, times=None))
    report = pipeline.sync()
    problems = "".join(f"{error!r} {error}" for error in report.failures.values()) + "".join(report.notes)
    assert customer["id"] in problems
    assert_nowhere(folder, problems + caplog.text)


@pytest.mark.parametrize(
    "line",
    [
        '{"id": "cus_1", "livemode": true, "created": "Jane Roe"}',
        '{"id": "cus_1", "livemode": true, "created": {"name": "Jane Roe"}}',
        '{"id": "cus_1", "livemode": "Jane Roe", "created": 1}',
        '{"id": "cus_1", "livemode": true, "created": 1, "name": "Jane Roe", "name": "Jane Roe"}',
        '{"id": "cus_1", "livemode": true, "created": 1, "name": "Jane Roe',
    ],
)
def test_the_databases_errors_show_no_values(folder: DataFolder, tmp_path: Path, line: str) -> None:
    warehouse = Warehouse(folder)
    file = tmp_path / "customers.ndjson"
    file.write_text(f"{line}\n", encoding="utf-8")
    batch = Batch(CUSTOMERS, (), Mode("acct_1", livemode=True), files={"customers": [file]}, first=0, last=2)
    with pytest.raises(WarehouseError, match=r"Loading into .* failed: Invalid Input Error") as failed:
        warehouse.load([batch])
    assert "Jane" not in "".join(traceback.format_exception(failed.value)).replace(line, "")
    assert "customers.ndjson" in failed.value.what
    warehouse.close()
