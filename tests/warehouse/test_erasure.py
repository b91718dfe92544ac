"""Erasing a person: out of every row, file and byte, also of later loads, while bookkeeping stays complete.

The tests go from the emulator to the published file. What Stripe redacts is off the disk after the next pruning.
"""

from __future__ import annotations

import io
import re
import secrets
from collections.abc import Sequence
from typing import Any

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.batch import Batch, Loaded
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.objects import DEFAULT_TYPES, OBJECT_TYPES
from stripe_pipeline.warehouse import compaction
from tests.cli.test_cli import Project, Run, api, environment, project, run  # noqa: F401 - the command line's fixtures
from tests.conftest import MakePipeline
from tests.stripe_state import ask, changed, days_ago, everything
from tests.test_fields import holding
from tests.variants import varied

MARK = secrets.token_hex(16)
"""In all personal fields of a customer; does not compress."""
OTHER = secrets.token_hex(16)
"""The same, of another customer."""


def trade(shop: Shop, mark: str, *, age: float = 3, **ids: Any) -> str:
    """Create a customer with every kind of object that can belong to one, each with the mark, and return the id."""
    day = days_ago(shop, age)
    text: dict[str, Any] = {"description": f"for {mark}", "metadata": {"buyer": mark, "order": "A-17"}}
    billing = {"email": f"{mark}@example.com", "name": mark, "phone": None, "address": {"city": mark, "line1": None}}
    shipping = {"name": mark, "address": {"line1": mark}}
    customer = str(
        shop.create_customer(created=day, name=mark, email=mark, phone=mark, shipping=shipping, **text, **ids)["id"]
    )
    paid = shop.create_payment(customer, created=day, receipt_email=mark, shipping=shipping, **text)
    buy(shop, paid["latest_charge"], mark)
    shop.refund(paid["latest_charge"], 500, created=day, instructions_email=mark, **text)
    declined = shop.create_payment(customer, created=day, outcome="failed")
    error = {"code": "card_declined", "type": "card_error", "payment_method": {"billing_details": billing}}
    shop.update("payment_intents", declined["id"], announce=False, last_payment_error=error)
    disputed = shop.create_payment(customer, created=day)["latest_charge"]
    buy(shop, disputed, mark)
    dispute = shop.dispute(disputed, created=day)["id"]
    shop.update_dispute(dispute, evidence={"customer_name": mark, "billing_address": mark}, announce=False)
    invoice = shop.create_invoice(customer, created=day)["id"]
    shop.pay_invoice(invoice, created=day)
    shop.update("invoices", invoice, announce=False, customer_shipping=shipping, customer_phone=mark, footer=mark)
    for of_invoice, line in list(shop.objects("invoice_lines", False)):
        if of_invoice == invoice:
            shop.update_invoice_line(invoice, line, description=f"Lesson for {mark}", announce=False)
    return customer


def buy(shop: Shop, charge: str, mark: str) -> None:
    """Write the mark to every field of a charge that can hold data of its buyer."""
    billing = {"email": f"{mark}@example.com", "name": mark, "phone": None, "address": {"city": mark, "line1": None}}
    customer = shop.objects("charges", False)[charge]["customer"]
    person = customer and {"id": customer, "object": "customer", "name": mark}
    shop.update(
        "charges",
        charge,
        announce=False,
        billing_details=billing,
        customer=person,
        receipt_url=f"https://pay.stripe.test/{mark}",
        payment_method_details={"type": "sepa_debit", "sepa_debit": {"last4": "3000", "fingerprint": mark}},
        a_new_field={"of": mark},
    )


def money(folder: DataFolder) -> dict[str, list[tuple[Any, ...]]]:
    """The columns of every table that bookkeeping needs."""
    return {
        name: ask(
            folder.published,
            f"SELECT {', '.join(object_type.key)}, created, {'status' if name != 'fee_details' else 'type'}, amount"
            f" FROM raw.{name} ORDER BY ALL",
        )
        for name, object_type in DEFAULT_TYPES.items()
        if name not in ("customers", "invoices", "invoice_lines")
    } | {
        "invoices": ask(folder.published, "SELECT id, customer, created, status, total FROM raw.invoices ORDER BY ALL"),
        "invoice_lines": ask(
            folder.published, "SELECT id, invoice, amount, quantity FROM raw.invoice_lines ORDER BY ALL"
        ),
    }


def test_an_erased_customer_is_in_no_file_and_amounts_ids_and_days_stay(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer, other = trade(shop, MARK), trade(shop, OTHER)
    pipeline = make_pipeline()
    pipeline.sync()
    assert set(holding(folder.root, MARK)) == {"stripe.duckdb"}
    before = money(folder)
    of_others = {
        table: [row for row in rows if OTHER in str(row)] for table, rows in everything(folder.published).items()
    }
    foreseen = pipeline.warehouse.erase([customer], dry_run=True)
    assert money(folder) == before
    assert holding(folder.root, MARK)
    erased = pipeline.warehouse.erase([customer])
    assert erased == foreseen
    assert erased[customer].rows == {
        "balance_transactions": 5,
        "charges": 4,
        "customers": 1,
        "disputes": 1,
        "fee_details": 4,
        "invoice_lines": len(shop.objects("invoice_lines", False)) // 2,
        "invoices": 1,
        "payment_intents": 4,
        "refunds": 1,
    }
    assert holding(folder.root, MARK) == []
    assert len(list(folder.versions.iterdir())) == 1
    assert money(folder) == before
    now = everything(folder.published)
    assert {table: [row for row in rows if OTHER in str(row)] for table, rows in now.items()} == of_others
    assert ask(folder.published, "SELECT id FROM test.customers") == [(other,)]
    assert ask(folder.published, f"SELECT count(*) FROM test.charges WHERE customer = '{customer}'") == [(4,)]
    [(code,)] = ask(
        folder.published,
        f"SELECT last_payment_error->>'code' FROM test.payment_intents WHERE customer = '{customer}'"
        " AND last_payment_error IS NOT NULL",
    )
    assert code == "card_declined"


def test_no_later_change_or_list_brings_an_erased_customer_back(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    customer, other = trade(shop, MARK), trade(shop, OTHER)
    pipeline = make_pipeline()
    pipeline.sync()
    pipeline.warehouse.erase([customer])
    # The same objects again, by events and by lists.
    shop.update_customer(customer, name=MARK, email=MARK)
    for table in ("charges", "payment_intents", "invoices", "refunds", "disputes"):
        for object_id in shop.objects(table, False):
            shop.update(table, object_id, metadata={"again": "yes"})
    make_pipeline().sync()
    for table in ("charges", "invoices"):  # no event announces metadata of a payment intent
        for whose, held in ((customer, None), (other, "yes")):
            sql = f"SELECT DISTINCT metadata->>'again' FROM raw.{table} WHERE customer = '{whose}'"
            assert ask(folder.published, sql) == [(held,)], table
    assert holding(folder.root, MARK) == []
    make_pipeline().backfill([day_of(days_ago(shop, days)) for days in range(5)])
    assert holding(folder.root, MARK) == []
    # New objects of the same customer, on a day of their own and announced by events.
    trade_again = shop.create_payment(customer, receipt_email=MARK)["latest_charge"]
    buy(shop, trade_again, MARK)
    dispute = shop.dispute(trade_again)["id"]
    shop.update_dispute(dispute, evidence={"customer_name": MARK})
    make_pipeline().sync()
    assert ask(folder.published, f"SELECT amount, evidence FROM raw.disputes WHERE id = '{dispute}'") == [(2000, None)]
    assert ask(folder.published, f"SELECT billing_details FROM raw.charges WHERE id = '{trade_again}'") == [(None,)]
    assert ask(folder.published, f"SELECT count(*) FROM raw.customers WHERE id = '{customer}'") == [(0,)]
    assert holding(folder.root, MARK) == []
    assert changed(make_pipeline().sync()) == {}


def test_an_object_that_later_proves_to_belong_to_an_erased_customer_is_stripped_then(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    """A dispute that is read before its charge."""
    customer = trade(shop, OTHER, age=4)
    pipeline = make_pipeline()
    pipeline.sync()
    pipeline.warehouse.erase([customer])
    charge = shop.create_payment(customer, created=days_ago(shop, 2))["latest_charge"]
    dispute = shop.dispute(charge, created=days_ago(shop, 2))["id"]
    shop.update_dispute(dispute, evidence={"customer_name": MARK}, announce=False)
    make_pipeline().backfill([day_of(days_ago(shop, 2))], ["disputes"])
    assert ask(folder.published, f"SELECT evidence->>'customer_name' FROM raw.disputes WHERE id = '{dispute}'") == [
        (MARK,)
    ]
    make_pipeline().backfill([day_of(days_ago(shop, 2))], ["charges"])
    assert ask(folder.published, f"SELECT evidence FROM raw.disputes WHERE id = '{dispute}'") == [(None,)]
    make_pipeline().prune()
    assert holding(folder.root, MARK) == []


def test_a_run_under_way_neither_brings_an_erased_customer_back_nor_loses_anything(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer, other = trade(shop, MARK), trade(shop, OTHER)
    make_pipeline().sync()
    reading = make_pipeline()
    load = reading.warehouse.load
    erased: list[str] = []

    def erase_meanwhile(batches: Sequence[Batch], **others: Any) -> Loaded:
        if not erased and any(MARK in path.read_text() for path in folder.spool.rglob("*.ndjson")):
            erased.append(customer)
            make_pipeline().warehouse.erase([customer])
        return load(batches, **others)

    monkeypatch.setattr(reading.warehouse, "load", erase_meanwhile)
    reading.backfill([day_of(days_ago(shop, 3))])
    assert erased
    assert holding(folder.root, MARK) == []
    assert ask(folder.published, "SELECT id FROM test.customers") == [(other,)]


@pytest.mark.parametrize(
    "settings", varied([pytest.param({"hash": ["customer"]}, id="hashed"), pytest.param({}, id="plain")])
)
def test_an_id_that_the_shop_chose_is_erased_too(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, settings: dict[str, Any]
) -> None:
    chosen = f"{MARK}@example.com"
    assert trade(shop, MARK, id=chosen) == chosen
    objects = {table: {"fields": settings} for table in ("charges", "invoices", "payment_intents", "refunds")}
    pipeline = make_pipeline(objects=objects)
    pipeline.sync()
    assert pipeline.warehouse.erase([chosen])[chosen].rows["charges"] == 4
    assert [name for name in holding(folder.root, MARK) if "inbox" not in name] == []
    [(customers, charges)] = ask(
        folder.published, "SELECT count(DISTINCT customer), count(*) FROM raw.charges WHERE customer IS NOT NULL"
    )
    assert (customers, charges) == (1, 4)
    # The id is recognized by its hash alone.
    make_pipeline(objects=objects).backfill([day_of(days_ago(shop, 3))])
    assert ask(folder.published, "SELECT count(*) FROM raw.customers") == [(0,)]
    assert [name for name in holding(folder.root, MARK) if "inbox" not in name] == []


def test_an_unusable_hash_key_for_erased_ids_is_reported_with_a_remedy_that_works(
    make_pipeline: MakePipeline, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STRIPE_PIPELINE_HASH_KEY", "which erasing does not use")
    warehouse = make_pipeline().warehouse
    folder.hash_key.mkdir()
    with pytest.raises(WarehouseError, match=r"cannot be kept in .*hash.key \(Is a directory\)") as refused:
        warehouse.erase(["jane@example.com"])
    assert "STRIPE_PIPELINE_HASH_KEY" not in refused.value.remedy
    folder.hash_key.rmdir()
    folder.hash_key.touch()
    with pytest.raises(WarehouseError, match=r"hash.key, .* is empty") as refused:
        warehouse.erase(["jane@example.com"])
    assert "does not identify erased customers whose ids your shop chose" in refused.value.remedy
    # The remedy works.
    folder.hash_key.unlink()
    warehouse.erase(["jane@example.com"])
    folder.hash_key.unlink()
    assert not warehouse.erase(["jane@example.com"], dry_run=True)["jane@example.com"].known


def test_erasing_can_be_undone_with_a_backfill(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    customer = trade(shop, MARK)
    pipeline = make_pipeline()
    pipeline.sync()
    before = everything(folder.published)
    pipeline.warehouse.erase([customer])
    assert pipeline.warehouse.keep_out_no_longer(customer) == [day_of(days_ago(shop, 3))]
    make_pipeline().backfill([day_of(days_ago(shop, 3))])
    now = everything(folder.published)
    for rows in (*before.values(), *now.values()):
        for row in rows:
            del row["_fetched_at"]
    assert now == before
    assert pipeline.warehouse.keep_out_no_longer(customer) is None


REDACTIONS: dict[str, dict[str, Any]] = {
    "null": {"receipt_email": None},
    "placeholder": {"receipt_email": "[redacted]"},
    "below": {"billing_details": {"email": None, "name": "Ada", "phone": None, "address": None}},
    "metadata": {"metadata": {"buyer": "[redacted]"}},
}


@pytest.mark.parametrize("how", varied(REDACTIONS))
def test_values_that_stripe_redacts_are_off_the_disk_after_the_nightly_pruning(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, how: str
) -> None:
    charge = shop.create_payment(created=days_ago(shop, 3))["latest_charge"]
    billing = {"email": MARK, "name": "Ada", "phone": None, "address": None}
    held: dict[str, Any] = {"receipt_email": MARK, "billing_details": billing, "metadata": {"buyer": MARK}}
    held = {name: held[name] for name in REDACTIONS[how]}
    shop.update("charges", charge, announce=False, **held)
    make_pipeline().sync()
    shop.update("charges", charge, **REDACTIONS[how])
    make_pipeline().sync()
    pipeline = make_pipeline()
    pipeline.prune()
    assert holding(folder.root, MARK) == []
    assert len(list(folder.versions.iterdir())) == 1


def test_a_mere_change_does_not_rewrite_the_file(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = shop.create_customer(created=days_ago(shop, 3), email="ada@example.com", metadata={"a": "1"})["id"]
    make_pipeline().sync()
    shop.update_customer(customer, email="grace@example.com", phone="1", metadata={})
    make_pipeline().sync()
    monkeypatch.setattr(compaction, "_copy_to", lambda *_: pytest.fail("compacted"))
    make_pipeline().prune()


def test_erasing_that_fails_on_a_full_disk_is_reported_and_completed_by_the_next_run(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = trade(shop, MARK)
    pipeline = make_pipeline()
    pipeline.sync()

    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_copy_to", full)
        with pytest.raises(WarehouseError, match=r"erased from the tables, but .*No space left.*Free disk space"):
            pipeline.warehouse.erase([customer])
    make_pipeline().sync()
    assert holding(folder.root, MARK) == []


def test_every_field_that_may_hold_something_about_a_person_is_a_column() -> None:
    for object_type in OBJECT_TYPES.values():
        named = {path.split(".")[0] for path in (*object_type.personal, *object_type.about_person)}
        assert named <= set(object_type.column_names) - object_type.key_columns


def test_the_command_erases_without_a_key_and_lists_the_rows(
    api: Server,  # noqa: F811
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    customer = api.shop.create_customer(livemode=True, name=MARK)["id"]
    api.shop.create_payment(customer, livemode=True, receipt_email=MARK)
    assert run("sync").status == 0
    assert holding(project.root, MARK)
    for name in ("STRIPE_API_KEY", "STRIPE_TEST_API_KEY"):
        monkeypatch.delenv(name)
    unknown = run("erase", "cus_Nobody", "--yes")
    assert unknown.status == 2
    assert "holds no customer cus_Nobody" in unknown.err
    assert "--unknown" in unknown.err
    monkeypatch.setattr("sys.stdin", io.StringIO(""))  # nobody there to answer
    declined = run("erase", customer)
    assert declined.status == 1
    assert "payment_intents" in declined.out
    assert holding(project.root, MARK)
    erased = run("erase", customer, "--yes")
    assert erased.status == 0, erased.err
    assert "1 customer" in erased.out
    assert holding(project.root, MARK) == []
    assert run("erase", customer, "--yes").status == 0  # repeating it is not an error
    assert run("erase", "cus_Nobody", "--yes", "--unknown").status == 0
    undone = run("erase", customer, "--undo")
    assert undone.status == 0
    assert "stripe-pipeline backfill --from" in undone.out
    assert run("erase", customer, "--undo").status == 2


@pytest.mark.thorough
def test_undoing_names_days_that_a_backfill_reads_and_no_others(
    api: Server,  # noqa: F811
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
) -> None:
    old = api.shop.create_customer(livemode=True, created=days_ago(api.shop, 3))["id"]
    buyer = api.shop.create_customer(livemode=True, created=days_ago(api.shop, 3))["id"]
    api.shop.create_payment(buyer, livemode=True)
    assert run("sync").status == 0
    assert run("erase", old, buyer, "--yes").status == 0
    project.settings("history: 1 day")
    undone = run("erase", old, "--undo")
    assert (undone.status, undone.err) == (0, "")
    assert "nothing to read again" in undone.out
    assert "backfill" not in undone.out
    command = re.search("`stripe-pipeline (.*?)`", run("erase", buyer, "--undo").out)
    assert command
    assert run(*command[1].split()).status == 0
    assert ask(project.folder.published, f"SELECT count(*) FROM live.charges WHERE customer = '{buyer}'") == [(1,)]


def test_a_customer_is_erased_from_the_published_file_if_only_that_file_is_left(
    api: Server,  # noqa: F811
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
) -> None:
    mark = secrets.token_hex(16)  # the shop is shared with other tests
    customer = api.shop.create_customer(livemode=True, name=mark)["id"]
    assert run("sync").status == 0
    project.folder.private.unlink()
    erased = run("erase", customer, "--yes")
    assert erased.status == 0, erased.err
    assert holding(project.root, mark) == []


def test_dagster_and_the_inbox_hold_nothing_of_an_erased_customer(
    api: Server,  # noqa: F811
    project: Project,  # noqa: F811
    run: Run,  # noqa: F811
) -> None:
    mark = secrets.token_hex(16)  # the shop is shared with other tests
    customer = api.shop.create_customer(livemode=True, name=mark)["id"]
    assert run("sync").status == 0
    assert run("erase", customer, "--yes").status == 0
    api.shop.update_customer(customer, phone=mark, livemode=True)
    assert run("sync").status == 0
    assert len(list(project.root.rglob("*.db"))) > 2  # Dagster's storage is among the files that are searched
    assert holding(project.root, mark) == []
