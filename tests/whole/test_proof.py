"""Proofs: every check holds on true tables, and names what is wrong once a row was removed, doubled or changed."""

from __future__ import annotations

from typing import Any

import pytest

from stripe_emulator import Fault, Server, Shop
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import DAY, day_of
from stripe_pipeline.proof.proving import COUNT, ONCE
from stripe_pipeline.proof.summary import SAMPLED, summarize
from stripe_pipeline.proof.tie_outs import TIE_OUTS
from stripe_pipeline.proof.verdict import SETTLING, Verdict
from stripe_pipeline.sync.pipeline import Pipeline
from tests.conftest import MakePipeline
from tests.stripe_state import ask, days_ago

ON: dict[str, Any] = {"payouts": {"enabled": True}}
NO_SAMPLE = {"sample": 0}  # which would correct some of the rows that a test changes
HOUR = 3600


def outcomes(folder: DataFolder, where: str = "true") -> list[tuple[Any, ...]]:
    """The rows of `pipeline.proof`: name, table, currency, scope, difference, verdict and reason."""
    columns = "name, object_type, currency, scope, difference, verdict, reason"
    return ask(folder.published, f"SELECT {columns} FROM pipeline.proof WHERE {where} ORDER BY ALL")


def unproved(folder: DataFolder) -> list[tuple[Any, ...]]:
    """The outcomes that are open or failed."""
    return outcomes(folder, "verdict <> 'proved'")


def settle(shop: Shop) -> None:
    """Let the time pass within which a difference may come from money in flight."""
    shop.clock.advance(SETTLING + 60)


def paths(server: Server) -> list[str]:
    """The paths of the requests since the last call, in order."""
    requested = [request.path for request in server.requests]
    server.requests.clear()
    return requested


@pytest.fixture
def proved(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> Pipeline:
    """A pipeline whose shop has everything that is compared, after a proof in which every check holds."""
    shop.seed_history(12)
    charge = shop.create_payment(amount=4000, created=days_ago(shop, 5))["latest_charge"]
    shop.refund(charge, 1500, created=days_ago(shop, 4))
    shop.dispute(
        shop.create_payment(amount=2500, created=days_ago(shop, 5))["latest_charge"], created=days_ago(shop, 3)
    )
    customer = shop.create_customer(created=days_ago(shop, 8))["id"]
    for days in (7, 6, 5):
        shop.create_invoice(customer, created=days_ago(shop, days))
    returned = shop.payout(700, created=days_ago(shop, 2))["source"]
    shop.fail_payout(returned, created=days_ago(shop, 1))
    pipeline = make_pipeline(objects=ON, history=day_of(days_ago(shop, 20)), proofs=NO_SAMPLE)
    assert not pipeline.sync().failures
    settle(shop)
    pipeline.prove()
    assert unproved(folder) == []
    return pipeline


def test_every_check_holds_on_true_tables(proved: Pipeline, folder: DataFolder) -> None:
    names = {name for name, *_ in outcomes(folder)}
    assert names == {"balance", ONCE, COUNT, *(tie_out.name for tie_out in TIE_OUTS)}
    compared = ask(folder.published, "SELECT name, sum(rows) FROM pipeline.proof GROUP BY name HAVING sum(rows) = 0")
    assert compared == [], "a check that compares nothing proves nothing"
    summary = summarize(proved.warehouse.proofs.stored())
    assert summary.verdict is Verdict.PROVED
    assert summary.sentence.startswith("Proved up to ")


def one(table: str, condition: str = "true", column: str = "id") -> str:
    """The condition for one row of a table in test mode."""
    chosen = f"SELECT min({column}) FROM raw.{table} WHERE NOT livemode AND _deleted_at IS NULL AND {condition}"
    return f"NOT livemode AND {column} = ({chosen})"


def change(table: str, column: str, by: int, condition: str = "true") -> str:
    """The statement that adds an amount to a column of one row."""
    return f"UPDATE raw.{table} SET {column} = {column} + {by} WHERE {one(table, condition)} RETURNING {by}"


def remove(table: str, value: str, condition: str = "true") -> str:
    """The statement that removes one row."""
    return f"DELETE FROM raw.{table} WHERE {one(table, condition)} RETURNING {value}"


def double(table: str, value: str, condition: str = "true") -> str:
    """The statement that doubles one row."""
    return f"INSERT INTO raw.{table} FROM raw.{table} WHERE {one(table, condition)} RETURNING {value}"


# Amounts that were exchanged are not compared.
IN_ITS_CURRENCY = "balance_transaction IN (SELECT id FROM raw.balance_transactions WHERE exchange_rate IS NULL)"
OF_CHARGE = "type = 'charge' AND exchange_rate IS NULL"
REFUNDED = "amount_refunded > 0"
OF_THREE = "customer IN (SELECT id FROM raw.customers WHERE next_invoice_sequence = 4)"
FEE = "(SELECT min(balance_transaction) FROM raw.fee_details WHERE NOT livemode)"
MUTATIONS = {
    "a fee is removed": (
        f"DELETE FROM raw.fee_details WHERE balance_transaction = {FEE} RETURNING amount",
        "fee_is_sum_of_fee_details",
        1,
    ),
    "a fee is changed": (
        f"UPDATE raw.fee_details SET amount = amount + 7 WHERE balance_transaction = {FEE} RETURNING 7",
        "fee_is_sum_of_fee_details",
        -1,
    ),
    "a fee is doubled": (
        f"INSERT INTO raw.fee_details FROM raw.fee_details WHERE balance_transaction = {FEE} RETURNING amount",
        "fee_is_sum_of_fee_details",
        -1,
    ),
    "a net amount is changed": (change("balance_transactions", "net", 5), "net_is_amount_less_fee", 1),
    "a net amount is changed, and the balance tells": (change("balance_transactions", "net", 5), "balance", 1),
    "a transaction is removed": (
        remove("balance_transactions", "amount", OF_CHARGE),
        "charge_is_its_balance_transaction",
        1,
    ),
    "a transaction is removed, and the balance tells": (
        remove("balance_transactions", "net", OF_CHARGE),
        "balance",
        -1,
    ),
    "a transaction is removed, and the day tells": (remove("balance_transactions", "1", OF_CHARGE), COUNT, -1),
    "a transaction is doubled": (double("balance_transactions", "1", OF_CHARGE), ONCE, 1),
    "a transaction is doubled, and the balance tells": (double("balance_transactions", "net", OF_CHARGE), "balance", 1),
    "a transaction names another charge": (
        f"UPDATE raw.balance_transactions SET source = 'ch_other' WHERE {one('balance_transactions', OF_CHARGE)}"
        " RETURNING amount",
        "charge_is_its_balance_transaction",
        1,
    ),
    "a captured amount is changed": (
        change("charges", "amount_captured", 3, IN_ITS_CURRENCY),
        "charge_is_its_balance_transaction",
        1,
    ),
    "a refunded amount is changed": (change("charges", "amount_refunded", 9), "amount_refunded_is_sum_of_refunds", 1),
    "a refund is removed": (remove("refunds", "amount"), "amount_refunded_is_sum_of_refunds", 1),
    "a refund is removed, and the balance transaction tells": (
        remove("refunds", "amount"),
        "payments_add_up_to_balance",
        1,
    ),
    "a refund is doubled": (double("refunds", "amount"), "amount_refunded_is_sum_of_refunds", -1),
    "a refund is changed": (change("refunds", "amount", 1, IN_ITS_CURRENCY), "refund_is_its_balance_transaction", 1),
    "a dispute's transaction is changed": (
        change("balance_transactions", "net", 11, "reporting_category = 'dispute'"),
        "dispute_is_its_balance_transactions",
        -1,
    ),
    "a line is removed": (remove("invoice_lines", "amount", "amount > 0"), "subtotal_is_sum_of_lines", 1),
    "a line is changed": (change("invoice_lines", "amount", 2), "subtotal_is_sum_of_lines", -1),
    "a subtotal is changed": (change("invoices", "subtotal", 4), "subtotal_is_sum_of_lines", 1),
    "a total is changed": (change("invoices", "total", 6), "total_is_subtotal_less_discounts_plus_tax", 1),
    "a paid amount is changed": (
        change("invoices", "amount_paid", 8, "status = 'paid' AND amount_paid > 0"),
        "amount_paid_is_sum_of_payments",
        1,
    ),
    "an invoice is removed from a sequence": (
        remove("invoices", "1", f"number LIKE '%-0002' AND {OF_THREE}"),
        "invoice_numbers_have_no_gap",
        1,
    ),
    "the last invoice of a sequence is removed": (
        remove("invoices", "1", f"number LIKE '%-0003' AND {OF_THREE}"),
        "next_invoice_number_follows_the_last",
        1,
    ),
    "a sequence ends elsewhere": (
        change("customers", "next_invoice_sequence", 2, "next_invoice_sequence = 4"),
        "next_invoice_number_follows_the_last",
        1,
    ),
    "a payout is changed": (
        change("payouts", "amount", 10, "automatic AND reconciliation_status = 'completed'"),
        "payout_is_sum_of_its_transactions",
        1,
    ),
    "a payout is changed, and its transaction tells": (
        change("payouts", "amount", 10),
        "payout_is_its_balance_transaction",
        1,
    ),
    "a returned payout is changed": (
        change("payouts", "amount", 10, "failure_balance_transaction IS NOT NULL"),
        "returned_payout_is_its_balance_transaction",
        1,
    ),
    "a customer is removed": (remove("customers", "1"), COUNT, -1),
    "a payment intent is removed": (remove("payment_intents", "1"), COUNT, -1),
    "a payment intent is doubled": (double("payment_intents", "1"), ONCE, 1),
}


@pytest.mark.parametrize(("statement", "name", "sign"), MUTATIONS.values(), ids=[*MUTATIONS])
def test_what_is_wrong_is_named_with_its_difference(
    proved: Pipeline, shop: Shop, folder: DataFolder, statement: str, name: str, sign: int
) -> None:
    with proved.warehouse.file.open() as connection:
        [(amount,)] = connection.execute(statement).fetchall()
    assert amount, "the mutation concerns no row"
    proved.prove()
    if name == "balance":
        assert [verdict for *_, verdict, _ in outcomes(folder, "name = 'balance' AND verdict <> 'proved'")] == ["open"]
        settle(shop)
        proved.prove()
    failed = outcomes(folder, f"name = '{name}' AND verdict = 'failed'")
    assert failed, "the check holds although its truth is broken"
    assert {difference for *_, difference, _, _ in failed} == {sign * amount}
    assert summarize(proved.warehouse.proofs.stored()).sentence.startswith("Not proved: ")


def test_a_customer_may_have_been_read_before_its_last_invoice(proved: Pipeline, folder: DataFolder) -> None:
    with proved.warehouse.file.open() as connection:
        changed = connection.execute(
            "UPDATE raw.customers SET next_invoice_sequence = 3, _fetched_at = i.created - INTERVAL 1 MINUTE"
            " FROM raw.invoices i WHERE i.number LIKE '%-0003' AND i.customer = customers.id"
            f" AND i.{OF_THREE} RETURNING 1"
        ).fetchall()
    assert changed
    proved.prove()
    assert unproved(folder) == []


def test_invoices_that_the_account_numbers_are_in_no_sequence_of_their_customer(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.numbers_by_customer = False
    shop.create_invoice(created=days_ago(shop, 3))
    pipeline = make_pipeline(history=day_of(days_ago(shop, 20)), proofs=NO_SAMPLE)
    assert not pipeline.sync().failures
    settle(shop)
    pipeline.prove()
    assert ask(folder.published, "SELECT next_invoice_sequence FROM raw.customers") == [(None,)]
    assert unproved(folder) == []


def test_a_payout_that_lacks_a_transaction_is_named(proved: Pipeline, folder: DataFolder) -> None:
    [(payout, transaction, net)] = ask(
        folder.published,
        "SELECT l.payout, t.id, t.net FROM raw.payout_balance_transactions l JOIN raw.balance_transactions t"
        " ON t.id = l.balance_transaction JOIN raw.payouts p ON p.id = l.payout AND p.balance_transaction <> t.id"
        " WHERE NOT l.livemode ORDER BY t.id LIMIT 1",
    )
    with proved.warehouse.file.open() as connection:
        connection.execute(f"DELETE FROM raw.payout_balance_transactions WHERE balance_transaction = '{transaction}'")
    proved.prove()
    [failed] = outcomes(folder, f"name = 'payout_is_sum_of_its_transactions' AND scope = '{payout}'")
    assert failed[4:6] == (net, "failed")


def test_the_balance_is_read_once_an_hour_and_after_what_moved_it(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 3))
    pipeline = make_pipeline()
    pipeline.sync()
    assert unproved(folder) == []
    settle(shop)
    paths(server)

    def readings() -> int:
        """How often a sync reads the balance, 15 minutes after the last one."""
        shop.clock.advance(15 * 60)
        pipeline.sync()
        return paths(server).count("/v1/balance")

    idle = [readings() for _ in range(12)]
    assert sum(idle) == 3
    assert idle[:3] == idle[4:7] == idle[8:11] == [0, 0, 0]
    readings()
    shop.create_payment()
    assert readings() == 1
    assert unproved(folder) == []


def test_money_in_flight_is_waited_for(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 3))
    pipeline = make_pipeline()
    pipeline.sync()
    shop.clock.advance(HOUR)
    # Stripe's balance holds a payment that no list shows yet.
    hidden = shop.create_payment(amount=9000)["latest_charge"]
    [late] = [t for t in shop.objects("balance_transactions", False).values() if t["source"] == hidden]
    shop.vanish("balance_transactions", late["id"])
    balance = shop.balance_object(False)
    balance["pending"][0]["amount"] += late["net"]
    server.faults.append(Fault(path="/v1/balance$", status=200, body=balance, times=2))
    paths(server)
    pipeline.sync()
    assert paths(server).count("/v1/balance") == 2, "the balance was not read again"
    [(name, *_, difference, verdict, reason)] = unproved(folder)
    assert (name, difference, verdict) == ("balance", -late["net"], "open")
    assert "in flight" in reason
    shop.put(late, livemode=False)
    shop.clock.advance(15 * 60)
    pipeline.sync()
    assert unproved(folder) == []


def test_an_account_older_than_its_history_ties_by_the_change_between_readings(
    make_pipeline: MakePipeline, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(amount=7000, created=days_ago(shop, 40))
    shop.create_payment(amount=3000, created=days_ago(shop, 5))
    pipeline = make_pipeline(history=day_of(days_ago(shop, 10)), proofs=NO_SAMPLE)
    pipeline.sync()
    [(name, *_, verdict, reason)] = unproved(folder)
    assert (name, verdict) == ("balance", "open")
    assert "older than" in reason
    shop.clock.advance(HOUR)
    shop.create_payment(amount=2000)
    pipeline.sync()
    assert unproved(folder) == []
    with pipeline.warehouse.file.open() as connection:
        [(net,)] = connection.execute(
            remove("balance_transactions", "net", "created < now() - INTERVAL 3 DAY")
        ).fetchall()
    for _ in range(2):
        shop.clock.advance(HOUR)
        pipeline.sync()
    [(*_, difference, verdict, _)] = outcomes(folder, "name = 'balance'")
    assert (difference, verdict) == (-net, "failed")


def test_a_key_without_the_permission_leaves_its_checks_open(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.seed_history(12)
    server.faults.append(Fault(path="/v1/disputes", status=403, times=1000))
    server.faults.append(Fault(path="/v1/balance$", status=403, times=1000))
    pipeline = make_pipeline(objects=ON, history=day_of(days_ago(shop, 20)))
    pipeline.sync()
    settle(shop)
    pipeline.prove()
    open_ = {(name, table): reason for name, table, *_, verdict, reason in unproved(folder) if verdict == "open"}
    assert open_["dispute_is_its_balance_transactions", "disputes"] == "Not complete in the warehouse: disputes"
    assert "cannot be read" in open_["balance", "balance_transactions"]
    assert not outcomes(folder, "verdict = 'failed'")
    assert summarize(pipeline.warehouse.proofs.stored()).verdict is Verdict.OPEN


def test_a_balance_that_cannot_be_read_is_tried_once_an_hour(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    shop.create_payment(created=days_ago(shop, 3))
    pipeline = make_pipeline()
    pipeline.sync()
    server.faults.append(Fault(path="/v1/balance$", status=403, times=None))
    paths(server)
    for _ in range(9):
        shop.clock.advance(15 * 60)
        pipeline.sync()
    assert paths(server).count("/v1/balance") == 2
    server.faults.clear()
    shop.clock.advance(HOUR)
    pipeline.sync()
    assert unproved(folder) == []


def test_what_the_settings_leave_out_is_open(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    shop.seed_history(5)
    objects = {"refunds": {"enabled": False}, "balance_transactions": {"fields": {"exclude": ["net"]}}}
    pipeline = make_pipeline(objects=objects, history=day_of(days_ago(shop, 20)))
    pipeline.sync()
    pipeline.prove()
    reasons = {name: reason for name, *_, verdict, reason in unproved(folder)}
    assert reasons["balance"] == "The settings leave out balance_transactions.net"
    assert reasons["net_is_amount_less_fee"] == "The settings leave out balance_transactions.net"
    assert reasons["amount_refunded_is_sum_of_refunds"] == "The settings leave out refunds"


def test_drift_names_what_no_event_announced(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    intent = shop.create_payment(created=days_ago(shop, 5))["id"]
    gone = shop.create_customer(created=days_ago(shop, 5))["id"]
    announced = shop.create_customer(created=days_ago(shop, 5))["id"]
    pipeline = make_pipeline(proofs={"sample": 100})
    pipeline.sync()
    drift = "SELECT object_type, id, difference, fields, found_by FROM pipeline.drift ORDER BY ALL"
    assert ask(folder.published, drift) == [], "a first load drifts from nothing"
    shop.clock.advance(HOUR)
    shop.update("payment_intents", intent, metadata={"order": "7"}, announce=False)
    shop.update("customers", announced, name="Known")
    pipeline.sync()
    pipeline.prove()
    found = [("payment_intents", intent, "changed", "metadata", "sample")]
    assert ask(folder.published, drift) == found
    [(*_, verdict, reason)] = [of for of in unproved(folder) if of[0] == SAMPLED]
    assert (verdict, reason) == ("open", "1 of 1 rows differed and were corrected: see pipeline.drift")
    assert "1 row drifted in" in summarize(pipeline.warehouse.proofs.stored()).sentence
    late = shop.create_customer(created=days_ago(shop, 5), announce=False)["id"]
    shop.vanish("customers", gone)
    shop.clock.advance(DAY)
    pipeline.sync()
    swept = [("customers", gone, "deleted", None, "sweep"), ("customers", late, "missing", None, "sweep")]
    assert ask(folder.published, drift) == sorted([*swept, *found])


def test_an_event_on_its_way_explains_a_difference(make_pipeline: MakePipeline, shop: Shop, folder: DataFolder) -> None:
    customer = shop.create_customer(created=days_ago(shop, 5))["id"]
    pipeline = make_pipeline(proofs={"sample": 100})
    pipeline.sync()
    shop.clock.advance(HOUR)
    shop.event_delay = 50
    shop.update("customers", customer, name="Announced late")
    pipeline.prove()
    assert ask(folder.published, "SELECT id, fields FROM pipeline.drift") == [(customer, "name")]
    shop.clock.advance(60)
    pipeline.sync()
    assert ask(folder.published, "FROM pipeline.drift") == []


def test_coverage_keeps_the_receipts_of_each_list(
    make_pipeline: MakePipeline, server: Server, shop: Shop, folder: DataFolder
) -> None:
    for _ in range(130):
        shop.create_payment(created=days_ago(shop, 3))
    shop.create_payment(created=days_ago(shop, 2))
    make_pipeline().sync()
    receipts = "SELECT day, first_request, last_request, listed FROM pipeline.coverage WHERE object_type = 'charges'"
    rows = {day: receipt for day, *receipt in ask(folder.published, receipts)}
    assert all(first and first.startswith("req_") and last for first, last, _ in rows.values())
    crowded, next_day = rows[day_of(days_ago(shop, 3))], rows[day_of(days_ago(shop, 2))]
    assert crowded[0] != crowded[1], "the day took two pages"
    assert (crowded[2], next_day[2]) == (130, 1)
