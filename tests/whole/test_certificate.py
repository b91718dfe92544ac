"""Certificates: the same rows give the same hash, and a changed row is named with the reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from stripe_emulator import Shop
from stripe_pipeline.errors import SettingsError
from stripe_pipeline.proof.certificate import Month
from stripe_pipeline.sync.certifying import Certificates, Certified
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline

MONTH = Month.of(datetime.now(UTC).date()).before
MIDDLE = int(datetime(MONTH.first.year, MONTH.first.month, 15, 12, tzinfo=UTC).timestamp())
ON: dict[str, Any] = {"payouts": {"enabled": True}}


@pytest.fixture
def loaded(make_pipeline: MakePipeline, shop: Shop) -> Pipeline:
    """A pipeline with a proof and the rows of the last closed month."""
    for _ in range(5):
        shop.create_payment(created=MIDDLE)
    customer = shop.create_customer(created=MIDDLE)["id"]
    shop.create_invoice(customer, n_lines=12, created=MIDDLE)
    shop.refund(shop.create_payment(amount=900, created=MIDDLE)["latest_charge"], 400, created=MIDDLE + 60)
    shop.create_payment()
    pipeline = make_pipeline(objects=ON, history=MONTH.before.first, proofs={"sample": 0})
    pipeline.sync()
    shop.clock.advance(600)
    pipeline.prove()
    return pipeline


def make(pipeline: Pipeline) -> Certified:
    """The certificate of the month."""
    [certified] = Certificates(pipeline.warehouse, pipeline.settings).make(MONTH)
    return certified


def test_the_same_rows_give_the_same_certificate(loaded: Pipeline, shop: Shop) -> None:
    first = make(loaded)
    assert first.certificate["verdict"] == "proved"
    assert first.replaced is None
    tables = {table["table"]: table for table in first.certificate["tables"]}
    assert (tables["charges"]["rows"], tables["invoice_lines"]["rows"]) == (6, 12)
    assert tables["charges"]["days_listed"] == tables["charges"]["days_complete"] == (MONTH.end - MONTH.first).days
    assert tables["charges"]["first_request"].startswith("req_")
    [balance] = first.certificate["balance"]
    assert balance["opening"] == 0
    assert balance["closing"] == sum(balance[name] for name in ("charges", "refunds", "fees", "payouts", "other"))
    assert balance["closing"] > 0
    # Another sync, a backfill and later payments leave the month as it was.
    shop.create_payment()
    loaded.sync()
    loaded.backfill([MONTH.first.replace(day=15)])
    second = make(loaded)
    assert not second.is_new
    assert second.certificate["rows_sha256"] == first.certificate["rows_sha256"]
    _, sentences, changed = Certificates(loaded.warehouse, loaded.settings).verify(second.json)
    assert (sentences, changed) == ([], [])


def test_rows_that_changed_since_are_named_with_the_reason(loaded: Pipeline, shop: Shop) -> None:
    first = make(loaded)
    shop.clock.advance(3600)
    charge, intent = (
        min(key for key, obj in shop.objects(table, False).items() if obj["created"] == MIDDLE)
        for table in ("charges", "payment_intents")
    )
    shop.update("charges", charge, metadata={"order": "7"})
    shop.update("payment_intents", intent, metadata={"order": "7"}, announce=False)
    loaded.sync()
    loaded.backfill([MONTH.first.replace(day=15)])
    _, sentences, changed = Certificates(loaded.warehouse, loaded.settings).verify(first.json)
    day = MONTH.first.replace(day=15)
    assert sentences == [
        f"charges, {day}: 6 rows in the certificate, 6 now; their values differ",
        f"payment_intents, {day}: 6 rows in the certificate, 6 now; their values differ",
    ]
    why = {(row.table, row.id): row.why for row in changed}
    assert why["charges", charge] == "changed in Stripe"
    assert why["payment_intents", intent] == "metadata differed without an event, found by backfill"
    second = make(loaded)
    assert second.is_new
    assert second.certificate["replaces"]["rows_sha256"] == first.certificate["rows_sha256"]
    assert ["charges", str(day), charge, "changed in Stripe"] in second.certificate["replaces"]["changed"]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE raw.charges SET amount = amount + 1 WHERE id = (SELECT min(id) FROM raw.charges)",
        "DELETE FROM raw.invoice_lines WHERE id = (SELECT min(id) FROM raw.invoice_lines)",
        "INSERT INTO raw.refunds FROM raw.refunds",
    ],
)
def test_a_row_that_changed_behind_the_pipelines_back_is_noticed(loaded: Pipeline, statement: str) -> None:
    first = make(loaded)
    with loaded.warehouse.file.open() as connection:
        connection.execute(statement)
    _, sentences, _ = Certificates(loaded.warehouse, loaded.settings).verify(first.json)
    assert len(sentences) == 1
    assert "their values differ" in sentences[0] or "now" in sentences[0]


def test_a_certificate_that_was_edited_is_noticed(loaded: Pipeline, tmp_path: Path) -> None:
    certificate = json.loads(make(loaded).json.read_bytes())
    certificates = Certificates(loaded.warehouse, loaded.settings)
    edited = tmp_path / "edited.json"
    certificate["tables"][0]["rows_sha256"] = "0" * 64
    edited.write_text(json.dumps(certificate))
    _, sentences, _ = certificates.verify(edited)
    assert sum("the file was changed" in sentence for sentence in sentences) == 2
    for content in ("[]", "{", '{"form": 7}', "{}"):
        edited.write_text(content)
        with pytest.raises(SettingsError, match=r"edited\.json"):
            certificates.verify(edited)


def test_a_month_that_cannot_be_certified_is_refused(loaded: Pipeline) -> None:
    certificates = Certificates(loaded.warehouse, loaded.settings)
    with pytest.raises(SettingsError, match=f"has not ended in UTC. Name one up to {MONTH}"):
        certificates.make(Month(MONTH.end))
    with pytest.raises(SettingsError, match=r"is before .*, where the history begins"):
        certificates.make(Month.parse("2019-01"))


class Text(HTMLParser):
    """The tags of a page, and whether each is closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        assert not any(name.startswith("on") or (value or "").startswith("http") for name, value in attrs)


def test_the_page_needs_no_script_and_no_other_file(loaded: Pipeline) -> None:
    certified = make(loaded)
    text = certified.html.read_text(encoding="utf-8")
    page = Text()
    page.feed(text)
    assert {"table", "style", "h1"} <= page.tags
    assert not page.tags & {"script", "link", "img", "iframe"}
    assert certified.certificate["rows_sha256"] in text
    assert certified.html.stat().st_mode & 0o077 == certified.json.stat().st_mode & 0o077 == 0
