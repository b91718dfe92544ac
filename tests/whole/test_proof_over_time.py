"""Proofs of tables whose rows were removed, erased or dated wrongly for a good reason, and readings that fail."""

from __future__ import annotations

from typing import Any

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline
from tests.stripe_state import ask, days_ago

BALANCE = "SELECT verdict, reason FROM pipeline.proof WHERE name = 'balance'"


def failed(folder: DataFolder) -> list[tuple[Any, ...]]:
    """The outcomes that failed."""
    return ask(folder.published, "SELECT name, object_type, scope FROM pipeline.proof WHERE verdict = 'failed'")


def test_a_line_that_was_removed_from_a_draft_is_not_missing(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    draft = shop.create_invoice(n_lines=3, draft=True, created=days_ago(shop, 5))["id"]
    pipeline.sync()
    shop.remove_invoice_line(draft, shop.lines(draft, False)[0]["id"])
    pipeline.sync()
    pipeline.prove()
    assert ask(folder.published, "SELECT count(*) FROM raw.invoice_lines") == [(2,)]
    assert failed(folder) == []


def test_rows_that_expire_between_two_prunes_are_not_missing(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    intent = shop.create_payment(created=days_ago(shop, 8))["id"]
    invoice = shop.create_invoice(n_lines=2, created=days_ago(shop, 8))["id"]
    history = day_of(days_ago(shop, 20))
    make_pipeline(history=history).sync()
    pipeline = make_pipeline(history=history, retention="5 days")
    shop.update("payment_intents", intent, metadata={"order": "7"})
    shop.update("invoices", invoice, metadata={"order": "7"})
    pipeline.sync()
    assert ask(folder.published, "SELECT count(*) FROM raw.invoices") == [(0,)]
    pipeline.prove()
    assert failed(folder) == []


def test_a_sample_leaves_rows_that_are_too_old_to_the_next_prune(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 8))
    young = shop.create_payment(created=days_ago(shop, 2))
    history = day_of(days_ago(shop, 20))
    make_pipeline(history=history).sync()
    make_pipeline(history=history, retention="5 days", proofs={"sample": 100}).prove()
    assert ask(folder.published, "SELECT count(*) FROM raw.payment_intents") == [(2,)]
    sampled = "SELECT rows FROM pipeline.samples WHERE object_type = 'payment_intents'"
    assert ask(folder.published, sampled) == [(1,)], young["id"]


def test_a_reading_of_a_wrong_clock_does_not_delay_the_next_one(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 5))
    pipeline.sync()
    pipeline.warehouse.ask("UPDATE pipeline.balances SET read_at = read_at + INTERVAL 9 DAY")
    pipeline.warehouse.ask("UPDATE pipeline.proof SET checked_at = checked_at + INTERVAL 9 DAY")
    shop.clock.advance(2 * 3600)
    server.requests.clear()
    pipeline.sync()
    assert [request.path for request in server.requests].count("/v1/balance") == 1
    ahead = f"make_timestamptz({int(shop.clock.now() + 60) * 1_000_000})"
    for table, column in (("balances", "read_at"), ("proof", "checked_at")):
        assert ask(folder.published, f"SELECT count(*) FROM pipeline.{table} WHERE {column} > {ahead}") == [(0,)]


def test_no_outcome_names_an_erased_customer(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    pipeline = make_pipeline(proofs={"sample": 0})  # which would correct the doubled rows
    gone, stays = "ada@example.com", "grace@example.com"
    for customer in (gone, stays):
        shop.create_customer(id=customer, created=days_ago(shop, 5))
    pipeline.sync()
    for customer in (gone, stays):
        shop.update("customers", customer, name="Changed", announce=False)
    shop.clock.advance(DAY + 3600)
    pipeline.sync()
    pipeline.warehouse.ask("INSERT INTO raw.customers FROM raw.customers")
    pipeline.prove()
    names = "SELECT id, 'drift' FROM pipeline.drift UNION SELECT scope, name FROM pipeline.proof WHERE scope LIKE '%@%'"
    found = {(customer, place) for customer in (gone, stays) for place in ("drift", "each_object_once")}
    assert set(ask(folder.published, names)) == found
    pipeline.warehouse.erase([gone])
    assert {customer for customer, _ in ask(folder.published, names)} == {stays}
    assert gone.encode() not in folder.published.read_bytes()


def test_a_balance_that_cannot_be_read_in_time_stops_no_sync(
    pipeline: Pipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 5))
    server.faults.append(Fault(path="^/v1/balance$", status=500, times=None))
    assert not pipeline.sync(within=8.0).failures
    [(verdict, reason)] = ask(folder.published, BALANCE)
    assert verdict == "open"
    assert "Stripe's balance cannot be read" in reason
    server.faults.clear()
    shop.clock.advance(3600)
    assert not pipeline.sync().failures
    assert ask(folder.published, BALANCE) == [("proved", None)]


def test_a_type_that_is_switched_off_leaves_no_outcome_of_the_balance(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 5))
    make_pipeline().sync()
    assert ask(folder.published, BALANCE) == [("proved", None)]
    off = make_pipeline(objects={"balance_transactions": {"enabled": False}})
    server.requests.clear()
    off.sync()
    off.prove()
    assert "/v1/balance" not in {request.path for request in server.requests}
    assert ask(folder.published, BALANCE) == []
