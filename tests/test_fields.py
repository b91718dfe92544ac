"""Fields that the settings exclude or hash: stored nowhere in plain text, also after the settings change.

Everything runs on the real path: emulator, pipeline, published file. `test_settings` tests which settings are valid.
"""

from __future__ import annotations

import hmac
import json
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from stripe_emulator import Server, Shop
from stripe_pipeline.batch import Batch, Loaded
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import day_of
from stripe_pipeline.errors import WarehouseError
from stripe_pipeline.sync.pipeline import Pipeline
from stripe_pipeline.warehouse import compaction
from stripe_pipeline.warehouse.schema import FORMAT
from tests.cli.test_cli import Project, Run, api, environment, project, run  # noqa: F401 - the command line's fixtures
from tests.conftest import KEYS, MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, changed, days_ago, rows
from tests.variants import varied

ADDRESS = "ada.of.the.tests@example.com"
LIVE = {"STRIPE_API_KEY": KEYS["STRIPE_API_KEY"]}


def fields(**of_table: dict[str, Any]) -> dict[str, Any]:
    """Settings with these rules for fields, by table."""
    return {"objects": {table: {"fields": rules} for table, rules in of_table.items()}}


def holding(folder: Path, text: str) -> list[str]:
    """The files below `folder` that hold `text` in any byte or, where DuckDB compressed it, in any row."""
    return [
        path.name
        for path in folder.rglob("*")
        if path.is_file() and (text.encode() in path.read_bytes() or (path.suffix == ".duckdb" and in_rows(path, text)))
    ]


def in_rows(path: Path, text: str) -> bool:
    """Whether a row of any table of a DuckDB file holds `text`."""
    with duckdb.connect(str(path), read_only=True) as connection:
        tables = connection.execute("SELECT schema_name || '.' || table_name FROM duckdb_tables()").fetchall()
        return any(
            connection.execute(f"SELECT 1 FROM {table} t WHERE contains(t::VARCHAR, ?) LIMIT 1", [text]).fetchall()
            for (table,) in tables
        )


def columns(published: Path, table: str) -> set[str]:
    """The columns of a table or view."""
    with duckdb.connect(str(published), read_only=True) as connection:
        return {name for name, *_ in connection.execute(f"SELECT * FROM {table} LIMIT 0").description or []}


NOWHERE = {
    "customers": {"exclude": ["email"]},
    "charges": {"exclude": ["receipt_email", "billing_details.email"]},
    "payment_intents": {"exclude": ["receipt_email"]},
    "invoices": {"exclude": ["customer_email"]},
}


def trade(shop: Shop) -> str:
    """Create a customer whose email address is in every object that can hold one, and return the customer's id."""
    day = days_ago(shop, 3)
    customer = shop.create_customer(created=day, email=ADDRESS, name="Ada")["id"]
    paid = shop.create_payment(created=day, customer=customer, receipt_email=ADDRESS)
    person = {"id": customer, "object": "customer", "email": ADDRESS, "name": "Ada", "created": day}
    billing = {"email": ADDRESS, "name": "Ada", "address": None, "phone": None, "tax_id": None}
    values: dict[str, Any] = {"receipt_email": ADDRESS, "customer": person, "billing_details": billing}
    shop.update("charges", paid["latest_charge"], announce=False, **values)
    shop.create_invoice(created=day, customer=customer)
    return str(customer)


def test_an_excluded_field_is_stored_nowhere_not_even_in_a_nested_object(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    customer = trade(shop)
    pipeline = make_pipeline(**fields(**NOWHERE))
    load = pipeline.warehouse.load
    spooled: list[str] = []

    def load_and_record(batches: Sequence[Batch], **others: Any) -> Loaded:
        spooled.extend(path.read_text() for path in folder.spool.rglob("*.ndjson"))
        return load(batches, **others)

    monkeypatch.setattr(pipeline.warehouse, "load", load_and_record)
    pipeline.sync()
    shop.update_customer(customer, name="Ada L.")
    assert pipeline.sync().applied
    assert any("Ada" in lines for lines in spooled)
    assert not any(ADDRESS in lines for lines in spooled)
    assert ask(folder.published, "SELECT name FROM test.customers") == [("Ada L.",)]
    assert ask(folder.published, "SELECT _extra->>'$.customer.name' FROM test.charges") == [("Ada",)]
    assert "email" not in columns(folder.published, "raw.customers") | columns(folder.published, "test.customers")
    assert holding(folder.root, ADDRESS) == []


def test_without_the_setting_the_same_search_finds_the_address(
    pipeline: Pipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    pipeline.sync()
    assert holding(folder.root, ADDRESS)


def test_a_field_that_is_excluded_later_is_removed_from_every_file(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    make_pipeline().sync()
    (folder.spool / "of-a-killed-run").mkdir()
    (folder.spool / "of-a-killed-run" / "customers.ndjson").write_text(ADDRESS)
    shutil.copy(folder.private, folder.private.with_name("compacted.duckdb"))  # as a killed compaction leaves one
    with duckdb.connect(str(folder.published), read_only=True) as reading:
        later = fields(**NOWHERE)
        # The rows of a type that is not read any more are still stored.
        later["objects"]["invoices"] = {"enabled": False, "fields": {"hash": ["customer_email"]}}
        make_pipeline(**later).sync()
        # The open reader keeps its version.
        assert reading.execute("SELECT email FROM test.customers").fetchall() == [(ADDRESS,)]
    assert holding(folder.root, ADDRESS) == []
    assert ask(folder.published, "SELECT name FROM test.customers") == [("Ada",)]
    assert ask(folder.published, "SELECT _extra->>'$.customer.name' FROM test.charges") == [("Ada",)]
    assert ask(folder.published, "SELECT billing_details->>'name' IS NOT NULL FROM test.charges") == [(True,)]


def test_a_field_that_is_included_again_needs_a_backfill_and_every_sync_says_so(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    make_pipeline(**fields(**NOWHERE)).sync()
    wider = make_pipeline()
    notes = [note for note in wider.sync().notes if "backfill" in note]
    assert ask(folder.published, "SELECT email FROM test.customers") == [(None,)]
    day = day_of(days_ago(shop, 3))
    remedy = f"`stripe-pipeline backfill --from {day} --to {day} --only customers` brings that in"
    assert f"customers: days from {day} to {day} were read without email; {remedy}" in notes
    held = "without _extra (customers.email), billing_details.email, receipt_email;"
    assert len([note for note in notes if held in note]) == 1
    wider.backfill([day_of(days_ago(shop, 3))])
    assert_all_fields_are_stored(shop, folder)
    assert [note for note in wider.sync().notes if "backfill" in note] == []


def assert_all_fields_are_stored(shop: Shop, folder: DataFolder) -> None:
    """Fail unless every field that `NOWHERE` excludes is stored again."""
    assert ask(folder.published, "SELECT email FROM test.customers") == [(ADDRESS,)]
    assert ask(folder.published, "SELECT receipt_email FROM test.charges") == [(ADDRESS,)]
    assert ask(folder.published, "SELECT _extra->>'$.customer.email' FROM test.charges") == [(ADDRESS,)]


@pytest.mark.both_modes
def test_only_included_fields_and_keys_are_stored(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    shop.seed_history(5)
    line = next(iter(shop.objects("invoice_lines", True)))
    shop.update("charges", next(iter(shop.objects("charges", True))), brand_new="unknown", announce=False)
    shop.update("customers", next(iter(shop.objects("customers", True))), another="unknown", announce=False)
    included = fields(
        charges={"include": ["amount", "currency"]},
        invoice_lines={"include": ["amount"]},
        customers={"include": ["_extra"]},
    )
    make_pipeline(LIVE, **included).sync()
    bookkeeping = {"_account", "_fetched_at", "_deleted_at", "_extra"}
    assert columns(folder.published, "raw.charges") == {"id", "created", "livemode", "amount", "currency"} | bookkeeping
    assert columns(folder.published, "raw.invoice_lines") >= {"id", "invoice", "created", "livemode", "amount"}
    assert holding(folder.root, "brand_new") == []
    extra = ask(folder.published, "SELECT _extra->>'another' FROM live.customers WHERE _extra IS NOT NULL")
    assert extra == [("unknown",)]
    assert "name" not in columns(folder.published, "live.customers")
    [(lines,)] = ask(folder.published, f"SELECT lines FROM raw.invoices WHERE id = '{line[0]}'")
    assert '"description"' not in lines
    assert "amount_decimal" in columns(folder.published, "test.charges")
    assert "amount_decimal" not in columns(folder.published, "live.invoice_lines")  # its currency is not stored


def test_hashed_fields_reveal_nothing_and_still_join(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    hashed = fields(
        customers={"hash": ["email", "name"]},
        charges={"hash": ["receipt_email"], "exclude": ["billing_details"]},
        payment_intents={"exclude": ["receipt_email"]},
        invoices={"hash": ["customer_email"], "exclude": ["customer_name"]},
    )
    make_pipeline(**hashed).sync()
    assert folder.hash_key.stat().st_mode & 0o077 == 0  # nobody else reads it
    joined = "SELECT count(*) FROM test.customers c JOIN test.charges h ON c.email = h.receipt_email"
    assert ask(folder.published, joined) == [(1,)]
    assert ask(folder.published, "SELECT email = customer_email FROM test.customers, test.invoices") == [(True,)]
    [(address, expanded)] = ask(
        folder.published, "SELECT c.email, h._extra->>'$.customer.email' FROM test.customers c, test.charges h"
    )
    key = folder.hash_key.read_bytes()
    # Whoever has the key can compute the hash of an address.
    assert address == hmac.new(key, ADDRESS.encode(), "sha256").hexdigest()[:32]
    assert expanded == address
    assert holding(folder.root, ADDRESS) == []
    make_pipeline(**hashed).backfill([day_of(days_ago(shop, 3))])
    assert ask(folder.published, "SELECT email FROM test.customers") == [(address,)]  # the same in every run


def test_a_field_that_is_hashed_later_has_the_same_hash_in_stored_and_new_rows(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    make_pipeline().sync()
    later = fields(
        customers={"hash": ["email"]},
        charges={"hash": ["receipt_email", "billing_details.email"]},
        payment_intents={"hash": ["receipt_email"]},
        invoices={"hash": ["customer_email"]},
    )
    pipeline = make_pipeline(**later)
    pipeline.sync()
    assert holding(folder.root, ADDRESS) == []
    before = {table: rows(folder.published, f"raw.{table}") for table in later["objects"]}
    assert changed(pipeline.backfill([day_of(days_ago(shop, 3))])) == {}
    assert {table: rows(folder.published, f"raw.{table}") for table in later["objects"]} == before
    assert ask(folder.published, "SELECT email = (billing_details->>'email') FROM test.customers, test.charges") == [
        (True,)
    ]


def test_another_hash_key_makes_other_hashes_and_asks_for_a_backfill(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade(shop)
    hashed = fields(customers={"hash": ["email"]})
    make_pipeline(**hashed).sync()
    [(first,)] = ask(folder.published, "SELECT email FROM test.customers")
    monkeypatch.setenv("STRIPE_PIPELINE_HASH_KEY", "another key of the tests")
    pipeline = make_pipeline(**hashed)
    assert any("were read without email;" in note for note in pipeline.sync().notes)
    assert ask(folder.published, "SELECT email FROM test.customers") == [(None,)]
    pipeline.backfill([day_of(days_ago(shop, 3))])
    [(second,)] = ask(folder.published, "SELECT email FROM test.customers")
    assert second not in (None, first, ADDRESS)
    assert holding(folder.root, "another key of the tests") == []


def test_a_hash_is_not_taken_for_a_value_when_the_field_is_plain_again(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    make_pipeline(**fields(customers={"hash": ["email", "name"]}, charges={"hash": ["billing_details.email"]})).sync()
    make_pipeline(**fields(customers={"hash": ["name"]})).sync()  # with the same key
    assert ask(folder.published, "SELECT email, length(name) FROM test.customers") == [(None, 32)]
    plain = make_pipeline()
    plain.sync()
    assert ask(folder.published, "SELECT email FROM test.customers") == [(None,)]
    assert ask(folder.published, "SELECT billing_details->>'email' FROM test.charges") == [(None,)]
    plain.backfill([day_of(days_ago(shop, 3))])
    assert_all_fields_are_stored(shop, folder)


def test_a_run_under_way_cannot_bring_back_fields_that_were_excluded_meanwhile(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    old = make_pipeline()
    old.sync()
    make_pipeline(**fields(**NOWHERE)).sync()
    shop.update_customer(next(iter(shop.objects("customers", False))), phone="1")
    with pytest.raises(WarehouseError, match="settings were changed while this run was under way"):
        old.sync()
    assert holding(folder.root, ADDRESS) == []
    make_pipeline(**fields(**NOWHERE)).sync()
    assert ask(folder.published, "SELECT phone FROM test.customers") == [("1",)]


def test_a_run_that_read_the_settings_before_a_change_and_opens_the_file_after_it_stores_nothing(
    shop: Shop, server: Server, folder: DataFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the sensor does, which waits for notifications for seconds."""
    settings = tmp_path / "settings.yaml"
    for name, value in (
        *KEYS.items(),
        ("STRIPE_API_BASE", server.url),
        ("STRIPE_PIPELINE_DATA", str(folder.root)),
        ("STRIPE_PIPELINE_CONFIG", str(settings)),
    ):
        monkeypatch.setenv(name, value)
    trade(shop)
    settings.write_text("history: 60 days")
    with Pipeline.from_environment() as first:
        first.sync()
    settings.write_text("history: 60 days\nobjects: {customers: {fields: {hash: [email]}}}")
    with Pipeline.from_environment() as waiting:
        settings.write_text("history: 60 days\nobjects: {customers: {fields: {hash: [email, name]}}}")
        with Pipeline.from_environment() as now:
            now.sync()
        hashes = ask(folder.published, "SELECT email, name FROM test.customers")
        with pytest.raises(WarehouseError, match="settings were changed while this run was under way"):
            waiting.sync()
    with Pipeline.from_environment() as now:
        now.sync()
    assert ask(folder.published, "SELECT email, name FROM test.customers") == hashes
    assert {len(value) for value in hashes[0]} == {32}


@pytest.mark.parametrize("how", varied(["exclude", "hash"]))
def test_fees_in_other_objects_can_be_read_again(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, how: str
) -> None:
    trade(shop)
    [charge] = shop.objects("charges", False)
    shop.dispute(charge, created=days_ago(shop, 2))
    make_pipeline().sync()
    [(held,)] = ask(folder.published, "SELECT balance_transactions::VARCHAR FROM raw.disputes")
    assert "Dispute fee" in held
    make_pipeline(**fields(fee_details={how: ["description"]})).sync()
    assert holding(folder.root, "Dispute fee") == []
    for again in (True, False):
        make_pipeline().sync()
        [note] = [note for note in make_pipeline().sync().notes if "--only disputes" in note]
        assert "without balance_transactions (fee_details.description);" in note
        if again:  # excluded once more: the field is not missing
            left_out = make_pipeline(**fields(fee_details={"exclude": ["description"]}))
            assert left_out.sync().notes == []
    make_pipeline().backfill([day_of(days_ago(shop, 2))], ["disputes"])
    assert [note for note in make_pipeline().sync().notes if "--only disputes" in note] == []
    assert ask(folder.published, "SELECT balance_transactions::VARCHAR FROM raw.disputes") == [(held,)]


@pytest.mark.parametrize("ahead", varied([-3, 600]))
def test_a_field_that_is_included_again_is_reported_whatever_the_local_clock_says(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, ahead: int
) -> None:
    shop.clock.advance(ahead)
    trade(shop)
    make_pipeline(**fields(customers={"exclude": ["email"]})).sync()
    assert [note for note in make_pipeline().sync().notes if "read without email" in note] != []
    make_pipeline(**fields(customers={"exclude": ["email"]})).sync()
    wider = make_pipeline()
    wider.backfill([day_of(days_ago(shop, 3))])
    assert wider.sync().notes == []
    assert ask(folder.published, "SELECT email FROM test.customers") == [(ADDRESS,)]


def test_a_backfill_is_asked_for_only_where_the_settings_allow_it(make_pipeline: MakePipeline, shop: Shop) -> None:
    for age in (50, 5):
        shop.create_customer(created=days_ago(shop, age), email=ADDRESS)
    make_pipeline(**fields(customers={"exclude": ["email"]}, charges={"exclude": ["outcome"]})).sync()
    later = (datetime.now(UTC) - timedelta(days=30)).date()
    [note] = make_pipeline(history=later).sync().notes
    assert f"days from {day_of(days_ago(shop, 5))} to {day_of(days_ago(shop, 5))} were read without email" in note
    assert make_pipeline(objects={"customers": {"enabled": False}}).sync().notes == []


@pytest.mark.parametrize("first", varied(["invoices", "invoice_lines"]))
def test_a_field_that_two_rules_hash_is_hashed_once(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, first: str
) -> None:
    trade(shop)
    rules = {"invoices": {"hash": ["lines.data.description"]}, "invoice_lines": {"hash": ["description"]}}
    make_pipeline(**fields(**{first: rules[first]})).sync()
    make_pipeline(**fields(**rules)).sync()
    sql = "SELECT l.description, i.lines->>'$.data[0].description' FROM raw.invoices i JOIN raw.invoice_lines l ON true"
    [(of_line, in_invoice)] = ask(folder.published, sql)
    assert of_line == in_invoice
    make_pipeline(**fields(**rules)).backfill([day_of(days_ago(shop, 3))])
    assert ask(folder.published, sql) == [(of_line, of_line)]


def test_metadata_does_not_decide_the_type_of_an_object(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    metadata = {"object": "customer", "order_id": "A-17", "email": ADDRESS}
    paid = shop.create_payment(created=days_ago(shop, 2), metadata=metadata)
    shop.update("charges", paid["latest_charge"], metadata=metadata)
    shop.update("charges", paid["latest_charge"], brand_new={"object": "thing", "metadata": metadata})
    make_pipeline(**fields(customers={"include": ["name"]})).sync()
    [(stored, extra)] = ask(folder.published, "SELECT metadata::JSON, _extra->'$.brand_new.metadata' FROM test.charges")
    assert json.loads(stored) == json.loads(extra) == metadata
    make_pipeline(**fields(customers={"include": ["name"], "exclude": ["phone"]})).sync()
    assert ask(folder.published, "SELECT metadata->>'order_id' FROM test.charges") == [("A-17",)]


def test_excluded_fields_that_a_full_disk_left_in_the_file_are_erased_at_the_next_run(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    trade(shop)
    make_pipeline().sync()

    def full(*_: object) -> None:
        raise duckdb.IOException("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(compaction, "_copy_to", full)
        with pytest.raises(WarehouseError, match=r"could not be brought to the settings: No space .* Free disk space"):
            make_pipeline(**fields(**NOWHERE)).sync()
    make_pipeline(**fields(**NOWHERE)).sync()
    assert holding(folder.root, ADDRESS) == []


def test_an_empty_hash_key_is_refused(make_pipeline: MakePipeline, folder: DataFolder) -> None:
    folder.root.mkdir()
    folder.hash_key.write_text("\n")
    with pytest.raises(WarehouseError, match=r"hash.key, which should hold the key .* is empty. Restore the file"):
        make_pipeline(**fields(customers={"hash": ["email"]}))


@pytest.mark.both_modes
def test_balance_transactions_without_their_status_are_stored(
    make_pipeline: MakePipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    shop.seed_history(5)
    make_pipeline(LIVE, **fields(balance_transactions={"exclude": ["status", "available_on"]})).sync()
    pipeline = make_pipeline(LIVE, **fields(balance_transactions={"exclude": ["status"]}))
    assert not pipeline.sync().failures
    pipeline = make_pipeline(LIVE, **fields(balance_transactions={"exclude": ["available_on"]}))
    assert not pipeline.sync().failures
    assert ask(folder.published, "SELECT count(*) > 0 FROM live.balance_transactions") == [(True,)]


@pytest.mark.both_modes
def test_rows_are_equal_to_stripe_after_fields_were_excluded_for_a_while(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(10)
    make_pipeline(
        **fields(
            invoice_lines={"exclude": ["description", "period.start"]},
            fee_details={"exclude": ["description"]},
            charges={"exclude": ["outcome"], "hash": ["payment_method_details.card.last4"]},
            balance_transactions={"include": ["amount", "fee_details"]},
        )
    ).sync()
    everything = make_pipeline()
    everything.backfill([day_of(days_ago(shop, n)) for n in range(60)])
    assert_equal_to_stripe(shop, folder.published)


def test_dagster_and_the_inbox_do_not_hold_excluded_fields(api: Server, project: Project, run: Run) -> None:  # noqa: F811
    customer = api.shop.create_customer(livemode=True, email=ADDRESS, name="Ada")["id"]
    project.settings("history: 3 days\nobjects: {customers: {fields: {exclude: [email]}}}")
    assert run("sync").status == 0
    api.shop.update_customer(customer, name="Ada L.", livemode=True)
    assert run("sync").status == 0
    assert ask(project.folder.published, f"SELECT name FROM live.customers WHERE id = '{customer}'") == [("Ada L.",)]
    assert len(list(project.root.rglob("*.db"))) > 2  # Dagster's storage is among the files that are searched
    assert holding(project.root, ADDRESS) == []


@pytest.mark.parametrize("later", varied([True, False]))
def test_fields_excluded_from_a_child_and_unknown_fields_are_removed_from_the_objects_around_them(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, later: bool
) -> None:
    trade(shop)
    [charge] = shop.objects("charges", False)
    for table, object_id in (("charges", charge), ("customers", next(iter(shop.objects("customers", False))))):
        shop.update(table, object_id, announce=False, brand_new=ADDRESS)
    [(invoice, line_id)] = shop.objects("invoice_lines", False)
    shop.update_invoice_line(invoice, line_id, announce=False, object=None)  # its place tells its type, too
    if later:
        make_pipeline().sync()
        assert ask(
            folder.published,
            "SELECT count(*) FROM test.balance_transactions WHERE fee_details::VARCHAR LIKE '%description%'",
        ) != [(0,)]
    left_out: dict[str, Any] = {
        "fee_details": {"exclude": ["description"]},
        "charges": {"exclude": ["_extra"]},
        "customers": {"exclude": ["_extra"]},
        # The rules of both types apply to a line in its invoice.
        "invoices": {"exclude": ["lines.data.description", "lines.data.parent"]},
        "invoice_lines": {"exclude": ["metadata", "period.start", "parent.type"]},
    }
    make_pipeline(**fields(**left_out)).sync()
    [(held,)] = ask(folder.published, "SELECT fee_details::VARCHAR FROM test.balance_transactions")
    assert '"amount"' in held
    assert '"description"' not in held
    assert holding(folder.root, "brand_new") == []
    assert ask(folder.published, "SELECT _extra FROM test.customers") == [(None,)]
    # The unknown fields of an expanded customer are not stored either.
    [customer] = shop.objects("customers", False)
    assert ask(folder.published, "SELECT _extra, customer FROM test.charges") == [(None, customer)]
    [(line,)] = ask(folder.published, "SELECT lines->'$.data[0]' FROM test.invoices")
    assert not {"description", "parent", "metadata"} & json.loads(line).keys()
    assert json.loads(line)["period"].keys() == {"end"}
    [(parent, description)] = ask(folder.published, "SELECT parent, description FROM test.invoice_lines")
    assert description
    assert json.loads(parent)
    assert "type" not in json.loads(parent)


def test_null_is_hashed_to_null_and_a_list_to_a_list(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    for phone in (None, ADDRESS, [ADDRESS]):
        customer = shop.create_customer(created=days_ago(shop, 3))["id"]
        shop.update("customers", customer, announce=False, phone=phone)
    make_pipeline(**fields(customers={"hash": ["phone"]})).sync()
    phones = ask(folder.published, "SELECT phone, _extra->>'$.phone[0]' FROM test.customers ORDER BY ALL")
    [(hashed, _)] = [row for row in phones if row[0] is not None]
    assert sorted(phones, key=str) == sorted([(hashed, None), (None, hashed), (None, None)], key=str)
    assert holding(folder.root, ADDRESS) == []


def test_a_hashed_field_that_is_excluded_now_needs_no_backfill(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    trade(shop)
    make_pipeline(**fields(customers={"hash": ["email"]})).sync()
    report = make_pipeline(**fields(customers={"exclude": ["email"]})).sync()
    assert not [note for note in report.notes if "backfill" in note]
    assert "email" not in columns(folder.published, "raw.customers")


def expand_refund(shop: Shop) -> str:
    """Create a refund that holds its charge, which holds its customer, and return the customer's id."""
    customer = trade(shop)
    [charge] = shop.objects("charges", False).values()
    refund = shop.refund(charge["id"], 500, created=days_ago(shop, 2))["id"]
    shop.update("refunds", refund, announce=False, charge=charge)
    return customer


def test_a_hash_is_the_same_in_an_object_nested_two_levels_deep(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    expand_refund(shop)
    make_pipeline(**fields(**NOWHERE | {"customers": {"hash": ["email"]}})).sync()
    [(address, expanded)] = ask(
        folder.published, "SELECT email, r._extra->>'$.charge.customer.email' FROM test.customers, test.refunds r"
    )
    assert expanded == address is not None


def test_a_shorter_list_of_included_fields_also_applies_to_nested_objects(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    expand_refund(shop)
    elsewhere = {"customers": {"include": ["email", "name"]}, "charges": {"include": ["amount", "customer", "_extra"]}}
    make_pipeline(**fields(**NOWHERE | elsewhere)).sync()
    assert holding(folder.root, ADDRESS)
    make_pipeline(**fields(**NOWHERE | elsewhere | {"customers": {"include": ["name"]}})).sync()
    assert holding(folder.root, ADDRESS) == []
    assert ask(folder.published, "SELECT _extra->>'$.charge.customer.name' FROM test.refunds") == [("Ada",)]


def test_the_field_object_need_not_hold_text(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    trade(shop)
    [charge] = shop.objects("charges", False)
    shop.update("charges", charge, announce=False, outcome={"object": {"email": ADDRESS}})
    assert not make_pipeline(**fields(charges={"exclude": ["outcome.object.email"]})).sync().failures
    assert ask(folder.published, "SELECT outcome FROM test.charges") == [('{"object":{}}',)]


@pytest.mark.parametrize("later", varied([True, False]))
def test_names_of_nested_fields_may_have_spaces_and_dots(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, later: bool
) -> None:
    metadata = {"home address": ADDRESS, "home": "kept", "e.mail": ADDRESS, "e": "kept"}
    shop.create_customer(created=days_ago(shop, 3), metadata=metadata)
    if later:
        make_pipeline().sync()
    make_pipeline(**fields(customers={"exclude": ["metadata.home address", 'metadata."e.mail"']})).sync()
    assert holding(folder.root, ADDRESS) == []
    assert ask(folder.published, "SELECT metadata::VARCHAR FROM test.customers") == [('{"home":"kept","e":"kept"}',)]


def test_a_hashed_reference_is_the_same_expanded_or_not_and_points_to_no_row(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    expand_refund(shop)
    shop.create_payment(created=days_ago(shop, 2))  # of no customer
    hashed = fields(charges={"hash": ["customer"]}, invoices={"hash": ["customer"]}, refunds={"hash": ["charge"]})
    make_pipeline(**hashed).sync()
    [(customer,)] = ask(folder.published, "SELECT customer FROM test.invoices")
    assert len(customer) == 32
    assert set(ask(folder.published, "SELECT customer FROM test.charges")) == {(customer,), (None,)}
    unknown = "customer, customer_name, refunds, net_total"
    assert set(ask(folder.published, f"SELECT {unknown} FROM test.payments")) == {(None, None, None, None)}


RULES = {"customers": {"exclude": ['metadata."e.mail"', "phone", "_extra"], "hash": ["email", "metadata.nick"]}}
LINES = '-metadata."e.mail"\n-phone\n#email\n#metadata.nick\n-_extra'
"""The same rules as a file of format 5 records them."""


@pytest.fixture
def of_format_5(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> tuple[str, str]:
    """A data folder in format 5 with a customer, loaded with `RULES`; the hashes of its two hashed values."""
    metadata = {"e.mail": ADDRESS, "nick": "ada"}
    shop.create_customer(created=days_ago(shop, 3), email=ADDRESS, name="Ada", phone="1", metadata=metadata)
    make_pipeline(**fields(**RULES)).sync()
    with duckdb.connect(str(folder.private)) as connection:
        connection.execute("UPDATE pipeline.applied SET value = '' WHERE starts_with(name, 'fields of ')")
        for table, lines in (
            ("customers", LINES),
            ("invoices", "-confirmation_secret"),
            ("payment_intents", "-client_secret"),
        ):
            connection.execute("UPDATE pipeline.applied SET value = ? WHERE name = ?", [lines, f"fields of {table}"])
        connection.execute("UPDATE pipeline.applied SET value = 'of format 5' WHERE name = 'layout'")
        connection.execute("UPDATE pipeline.meta SET format = 5")
    [hashes] = ask(folder.published, "SELECT email, metadata->>'nick' FROM test.customers")
    return hashes[0], hashes[1]


def test_a_file_of_format_5_stays_unchanged_with_the_settings_that_it_was_loaded_with(
    make_pipeline: MakePipeline, folder: DataFolder, of_format_5: tuple[str, str]
) -> None:
    before = rows(folder.published, "raw.customers")
    assert make_pipeline(**fields(**RULES)).sync().notes == []
    assert rows(folder.published, "raw.customers") == before
    assert ask(folder.published, "FROM pipeline.lacking") == []
    assert ask(folder.published, "SELECT format FROM pipeline.meta") == [(FORMAT,)]


def test_a_file_of_format_5_is_adapted_to_settings_that_store_more(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, of_format_5: tuple[str, str]
) -> None:
    pipeline = make_pipeline()
    [note] = pipeline.sync().notes
    assert 'were read without _extra, email, metadata."e.mail", metadata.nick, phone;' in note
    customer = "SELECT name, email, metadata->>'nick', phone FROM test.customers"
    assert ask(folder.published, customer) == [("Ada", None, None, None)]
    pipeline.backfill([day_of(days_ago(shop, 3))])
    assert pipeline.sync().notes == []
    assert_equal_to_stripe(shop, folder.published)


def test_a_file_of_format_5_is_adapted_to_settings_that_store_less(
    make_pipeline: MakePipeline, folder: DataFolder, of_format_5: tuple[str, str]
) -> None:
    email, _ = of_format_5
    exclude = ['metadata."e.mail"', "phone", "_extra", "metadata.nick"]
    narrower = fields(customers={"exclude": exclude, "hash": ["email", "name"]})
    assert make_pipeline(**narrower).sync().notes == []
    [row] = ask(folder.published, "SELECT email, length(name), metadata::VARCHAR FROM test.customers")
    assert row == (email, 32, "{}")


SECRETS = ("pi_1_secret_Aa1", "src_client_secret_Bb2", "seti_1_secret_Cc3", "ek_test_Dd4", "pi_2_secret_Ee5")


def put_secrets_everywhere(shop: Shop) -> str:
    """Create a payment whose client secret is wherever Stripe puts one and in metadata; return the intent's id."""
    day = days_ago(shop, 3)
    intent = shop.create_payment(created=day, metadata={"client_secret": "the shop's own"})["id"]
    [charge] = shop.objects("charges", False)
    of_intent, of_source, of_setup, of_key, of_invoice = SECRETS
    expanded = {"id": intent, "object": "payment_intent", "amount": 1, "client_secret": of_intent, "metadata": {}}
    source = {"id": "src_1", "object": "source", "client_secret": of_source}
    setup = {"id": "seti_1", "object": "setup_intent", "client_secret": of_setup}
    shop.update(
        "payment_intents",
        intent,
        announce=False,
        client_secret=of_intent,
        metadata={"client_secret": "the shop's own"},
        last_payment_error={"payment_intent": expanded, "setup_intent": setup, "source": source, "type": "card_error"},
        next_action={
            "type": "redirect_to_url",
            "redirect_to_url": {"url": f"https://stripe.test/3ds?payment_intent_client_secret={of_intent}&a=1"},
            "back": f"https://stripe.test/3ds?to=https%3A%2F%2Fshop.test%3Fclient_secret%3D{of_intent}",
            "use_stripe_sdk": {"stripe_js": f"https://stripe.test/src_1?client_secret={of_source}"},
        },
        a_new_field={"client_secret": of_intent, "kept": True},
    )
    key = {"id": "ephkey_1", "object": "ephemeral_key", "secret": of_key}
    shop.update("charges", charge, announce=False, payment_intent=expanded, source=source, another=[key])
    shop.refund(charge, 100, created=day)
    [refund] = shop.objects("refunds", False)
    shop.update("refunds", refund, announce=False, payment_intent=expanded)
    dispute = shop.dispute(charge, created=day)["id"]
    shop.update("disputes", dispute, announce=False, payment_intent=expanded)
    customer = shop.create_customer(created=day)["id"]
    sources = {"object": "list", "data": [source], "has_more": False, "url": f"/v1/customers/{customer}/sources"}
    shop.update("customers", customer, announce=False, sources=sources)
    invoice = shop.create_invoice(created=day, customer=customer)["id"]
    shop.update(
        "invoices",
        invoice,
        announce=False,
        confirmation_secret={"client_secret": of_invoice, "type": "payment_intent"},
        last_finalization_error={"payment_intent": expanded, "setup_intent": setup},
    )
    return str(intent)


@pytest.mark.parametrize("settings", varied([{}, fields(payment_intents={"exclude": ["shipping"]})]))
def test_secrets_that_stripe_says_must_not_be_stored_are_stored_nowhere(
    make_pipeline: MakePipeline,
    shop: Shop,
    folder: DataFolder,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
) -> None:
    intent = put_secrets_everywhere(shop)
    pipeline = make_pipeline(**settings)
    load = pipeline.warehouse.load
    spooled: list[str] = []

    def load_and_record(batches: Sequence[Batch], **others: Any) -> Loaded:
        spooled.extend(path.read_text() for path in folder.spool.rglob("*.ndjson"))
        return load(batches, **others)

    monkeypatch.setattr(pipeline.warehouse, "load", load_and_record)
    report = pipeline.sync()
    assert report.notes == []  # no backfill is asked for
    assert spooled
    assert not any(secret in lines for lines in spooled for secret in SECRETS)
    assert [holding(folder.root, secret) for secret in SECRETS] == [[]] * len(SECRETS)
    [(metadata, action, extra)] = ask(
        folder.published,
        "SELECT metadata->>'client_secret', next_action->>'$.redirect_to_url.url', _extra->'a_new_field'"
        f" FROM test.payment_intents WHERE id = '{intent}'",
    )
    assert metadata == "the shop's own"
    assert action == "https://stripe.test/3ds?payment_intent_client_secret=pi_1_secret_…&a=1"
    assert json.loads(extra) == {"kept": True}
    assert ask(folder.published, "SELECT source->>'id', _extra->>'$.payment_intent.amount' FROM test.charges") == [
        ("src_1", "1")
    ]
    assert "client_secret" not in columns(folder.published, "raw.payment_intents")
    assert "confirmation_secret" not in columns(folder.published, "test.invoices")


def test_secrets_are_erased_from_files_that_hold_them(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_secrets_everywhere(shop)
    with monkeypatch.context() as before:  # as versions without these rules wrote it
        before.setattr("stripe_pipeline.fields.SECRET", "no such text")
        before.setattr("stripe_pipeline.fields._secrets_of", lambda _: frozenset())
        before.setattr("stripe_pipeline.fields._kept_secrets", lambda _, object_type: frozenset(object_type.secrets))
        before.setattr("stripe_pipeline.warehouse.schema._SECRETS_TAKEN_OUT", 0)
        make_pipeline().sync()
    assert all(set(holding(folder.root, secret)) == {"stripe.duckdb"} for secret in SECRETS)
    assert "client_secret" in columns(folder.published, "raw.payment_intents")
    held = ask(folder.published, "SELECT count(*), sum(amount) FROM test.payment_intents")
    assert make_pipeline().sync().notes == []
    assert [holding(folder.root, secret) for secret in SECRETS] == [[]] * len(SECRETS)
    assert len(list(folder.versions.iterdir())) == 1
    assert ask(folder.published, "SELECT count(*), sum(amount) FROM test.payment_intents") == held
    before_listing = rows(folder.published, "raw.payment_intents")
    assert changed(make_pipeline().backfill([day_of(days_ago(shop, 3))])) == {}
    assert rows(folder.published, "raw.payment_intents") == before_listing


@pytest.mark.thorough
def test_a_secret_is_stored_only_where_the_settings_name_it(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    put_secrets_everywhere(shop)
    named = {"payment_intents": {"include": ["client_secret", "amount"]}, "invoices": {"include": ["total"]}}
    make_pipeline(**fields(**named)).sync()
    assert ask(folder.published, "SELECT client_secret FROM test.payment_intents") == [(SECRETS[0],)]
    assert [holding(folder.root, secret) for secret in SECRETS[1:]] == [[]] * 4
    named["invoices"] = {"include": ["confirmation_secret"]}
    pipeline = make_pipeline(**fields(**named))
    [note] = [note for note in pipeline.sync().notes if "--only invoices" in note]
    assert "confirmation_secret" in note
    pipeline.backfill([day_of(days_ago(shop, 3))], ["invoices"])
    assert ask(folder.published, "SELECT confirmation_secret->>'client_secret' FROM test.invoices") == [(SECRETS[4],)]
    make_pipeline(**fields(payment_intents={"hash": ["client_secret"]})).sync()
    assert [holding(folder.root, secret) for secret in SECRETS] == [[]] * len(SECRETS)
    make_pipeline().sync()
    assert [holding(folder.root, secret) for secret in SECRETS] == [[]] * len(SECRETS)
