"""Events: which action announces which event, frozen contents, late visibility, retention."""

from __future__ import annotations

import pytest

from stripe_emulator import Clock, Shop
from tests.stripe_emulator.conftest import LIVE_KEY, NOW, Get, ids

DAY = 86400


_SUBSCRIBING = ("customer.subscription.created", "customer.discount.created")


def _kinds(shop: Shop) -> list[str]:
    return [event["type"] for event in reversed(shop.events(False))]


def test_the_events_that_each_action_announces(shop: Shop) -> None:
    seen = 0

    def announced() -> list[str]:
        nonlocal seen
        kinds = _kinds(shop)[seen:]
        seen += len(kinds)
        return kinds

    person = shop.create_customer()["id"]
    assert announced() == ["customer.created"]
    shop.update_customer(person, name="Ada")
    assert announced() == ["customer.updated"]
    paid = shop.create_payment(person)
    assert announced() == ["payment_intent.created", "charge.succeeded", "payment_intent.succeeded"]
    failed = shop.create_payment(person, outcome="failed")
    assert announced() == ["payment_intent.created", "charge.failed", "payment_intent.payment_failed"]
    shop.attempt_payment(failed["id"])
    assert announced() == ["charge.succeeded", "payment_intent.succeeded"]
    held = shop.create_payment(outcome="requires_capture")
    assert announced() == ["payment_intent.created", "charge.succeeded", "payment_intent.amount_capturable_updated"]
    shop.capture(held["id"])
    assert announced() == ["charge.captured", "payment_intent.succeeded"]
    slow = shop.create_payment(outcome="processing")
    assert announced() == ["payment_intent.created", "charge.pending", "payment_intent.processing"]
    shop.capture(slow["id"])
    assert announced() == ["charge.succeeded", "payment_intent.succeeded"]
    unconfirmed = shop.create_payment(outcome="requires_action")
    assert announced() == ["payment_intent.created", "payment_intent.requires_action"]
    shop.cancel_payment(unconfirmed["id"])
    assert announced() == ["payment_intent.canceled"]
    refund = shop.refund(paid["latest_charge"], 100)["id"]
    assert announced() == ["refund.created", "charge.refunded"]
    shop.fail_refund(refund)
    assert announced() == ["refund.failed", "refund.updated", "charge.refund.updated"]
    shop.update("refunds", refund, metadata={"a": "b"})
    assert announced() == ["refund.updated", "charge.refund.updated"]
    won, lost = (shop.dispute(intent["latest_charge"])["id"] for intent in (paid, held))
    assert announced() == ["charge.dispute.created", "charge.dispute.funds_withdrawn"] * 2
    shop.update_dispute(won)
    assert announced() == ["charge.dispute.updated"]
    shop.close_dispute(won, won=True)
    assert announced() == ["charge.dispute.funds_reinstated", "charge.dispute.closed"]
    shop.close_dispute(lost, won=False)
    assert announced() == ["charge.dispute.closed"]
    invoice = shop.create_invoice(person, draft=True)["id"]
    assert announced() == ["invoice.created"]
    line = shop.add_invoice_line(invoice)["id"]
    shop.update_invoice_line(invoice, line, amount=7)
    shop.remove_invoice_line(invoice, line)
    assert announced() == ["invoice.updated"] * 3
    shop.finalize_invoice(invoice)
    assert announced() == ["customer.updated", "invoice.finalized", "invoice.updated"]
    shop.pay_invoice(invoice, outcome="failed")
    failing = ["payment_intent.created", "charge.failed", "payment_intent.payment_failed", "customer.updated"]
    assert announced() == [*failing, "invoice.payment_failed", "invoice.updated"]
    shop.pay_invoice(invoice)
    paying = ["charge.succeeded", "payment_intent.succeeded", "invoice_payment.paid", "customer.updated"]
    assert announced() == [*paying, "invoice.paid", "invoice.payment_succeeded", "invoice.updated"]
    open_invoices = [shop.create_invoice(person)["id"] for _ in range(2)]
    assert announced() == ["invoice.created", "customer.updated", "invoice.finalized", "invoice.updated"] * 2
    shop.void_invoice(open_invoices[0])
    shop.mark_invoice_uncollectible(open_invoices[1])
    assert announced() == ["invoice.voided", "invoice.updated", "invoice.marked_uncollectible", "invoice.updated"]
    shop.delete_invoice(shop.create_invoice(person, draft=True)["id"])
    assert announced() == ["invoice.created", "invoice.deleted"]
    coupon = shop.create_coupon()["id"]
    code = shop.create_promotion_code(coupon)["id"]
    subscription = shop.create_subscription(person, {}, coupon=coupon, promotion_code=code)["id"]
    assert announced() == ["coupon.created", "promotion_code.created", *_SUBSCRIBING]
    # Redemptions of the coupon and the code, and the objects that are discounted, have no event here.
    shop.end_discount(shop.discount_subscription(subscription, coupon)["id"])
    assert announced() == ["customer.discount.created", "customer.discount.deleted"]
    shop.discount_customer(person, coupon)
    shop.end_discount(shop.discount_customer(person, coupon, promotion_code=code)["id"])
    assert announced() == [f"customer.discount.{change}" for change in ("created", "updated", "deleted")]
    shop.cancel_subscription(subscription)
    shop.delete_customer(person)
    assert announced() == ["customer.subscription.deleted", "customer.deleted"]
    paid_out, sent_back, canceled = (shop.payout()["source"] for _ in range(3))
    assert announced() == ["payout.created"] * 3
    shop.complete_payout(paid_out)
    completed = ["payout.reconciliation_completed", "payout.updated"]
    assert announced() == [*completed, "payout.paid", "payout.updated"]
    shop.fail_payout(sent_back)
    assert announced() == ["payout.failed", "payout.updated"]
    shop.cancel_payout(canceled)
    assert announced() == ["payout.canceled", "payout.updated"]
    shop.update("payouts", paid_out, metadata={"a": "b"})
    assert announced() == ["payout.updated"]
    shop.update("payment_intents", paid["id"], metadata={"a": "b"})
    shop.update("charges", paid["latest_charge"], announce=False, metadata={"a": "b"})
    assert announced() == []
    shop.update("charges", paid["latest_charge"], metadata={})
    assert announced() == ["charge.updated"]


def test_no_action_announces_an_event_with_announce_off(shop: Shop) -> None:
    person = shop.create_customer(announce=False)["id"]
    charge = shop.create_payment(person, announce=False)["latest_charge"]
    shop.fail_refund(shop.refund(charge, announce=False)["id"], announce=False)
    dispute = shop.dispute(charge, announce=False)["id"]
    shop.update_dispute(dispute, announce=False)
    shop.close_dispute(dispute, True, announce=False)
    invoice = shop.create_invoice(person, announce=False)["id"]
    shop.remove_invoice_line(invoice, shop.add_invoice_line(invoice, announce=False)["id"], announce=False)
    shop.pay_invoice(invoice, announce=False)
    shop.delete_customer(person, announce=False)
    for end in (shop.complete_payout, shop.fail_payout, shop.cancel_payout):
        end(shop.payout(announce=False)["source"], announce=False)
    assert shop.events(False) == []


def test_an_event_holds_the_object_as_it_was(shop: Shop, get: Get) -> None:
    person = shop.create_customer(name="Ada", metadata={"a b": "1"})
    shop.update_customer(person["id"], name="Grace", metadata={"A_B": "2"})
    update, creation = get("/v1/events").json()["data"]
    assert creation["data"] == {"object": person}
    assert update["data"]["object"]["name"] == "Grace"
    assert update["data"]["previous_attributes"] == {"name": "Ada", "metadata": {"a b": "1", "A_B": None}}
    fixed = {"object": "event", "api_version": "2026-10-28.endive", "created": NOW, "livemode": False}
    assert creation | fixed | {"type": "customer.created", "pending_webhooks": 0} == creation
    assert creation["request"] == {"id": None, "idempotency_key": None}
    assert get(f"/v1/events/{creation['id']}").json() == creation


def test_events_hold_ten_lines_of_an_invoice_and_the_last_state_of_a_deleted_customer(shop: Shop) -> None:
    shop.create_invoice(n_lines=25)
    lines = next(event for event in shop.events(False) if event["type"] == "invoice.created")["data"]["object"]["lines"]
    assert (len(lines["data"]), lines["has_more"], lines["total_count"]) == (10, True, 25)
    person = shop.create_customer(name="Ada")
    shop.delete_customer(person["id"])
    assert shop.events(False)[0]["data"] == {"object": person}


def test_events_are_filtered_by_type(shop: Shop, get: Get) -> None:
    shop.create_payment()
    shop.create_customer()

    def kinds(query: str) -> list[str]:
        return [event["type"] for event in get(f"/v1/events?{query}").json()["data"]]

    assert kinds("type=charge.succeeded") == ["charge.succeeded"]
    assert kinds("type=payment_intent.*") == ["payment_intent.succeeded", "payment_intent.created"]
    assert kinds("types[]=customer.created&types[]=charge.succeeded") == ["customer.created", "charge.succeeded"]
    assert kinds("types[0]=customer.created&delivery_success=true") == ["customer.created"]
    assert kinds("type=charge") == []
    assert len(kinds("delivery_success=false")) == 4


def test_modes_have_their_own_events(shop: Shop, get: Get) -> None:
    shop.create_customer(livemode=True)
    assert ids(get("/v1/events")) == []
    (event,) = get("/v1/events", LIVE_KEY).json()["data"]
    assert event["livemode"] is True


def test_late_events(shop: Shop, clock: Clock, get: Get) -> None:
    person = shop.create_customer()
    late = shop.emit_event("customer.updated", person, livemode=False, visible_after=40)
    assert ids(get("/v1/events?type=customer.updated")) == []
    assert get(f"/v1/events/{late['id']}").status_code == 404
    clock.advance(39.5)
    assert len(shop.events(False)) == 1
    clock.advance(0.5)
    assert ids(get("/v1/events?type=customer.updated")) == [late["id"]]
    assert shop.events(False)[0]["created"] == NOW
    shop.event_delay = 5
    shop.update_customer(person["id"], name="Ada")
    assert len(ids(get("/v1/events"))) == 2
    clock.advance(5)
    assert len(ids(get("/v1/events"))) == 3


@pytest.mark.parametrize(("age", "listed"), [(30 * DAY - 1, True), (30 * DAY, True), (30 * DAY + 1, False)])
def test_events_are_listed_for_30_days(shop: Shop, clock: Clock, get: Get, age: int, listed: bool) -> None:
    shop.create_customer()
    (event,) = ids(get("/v1/events"))
    clock.advance(age)
    assert ids(get(f"/v1/events?created[gte]={NOW}")) == ([event] if listed else [])
    assert get(f"/v1/events/{event}").status_code == (200 if listed else 404)
    assert len(shop.events(False)) == listed
    if not listed:
        assert get(f"/v1/events?starting_after={event}").status_code == 400


def test_there_is_no_payment_intent_updated(seeded: Shop) -> None:
    kinds = {event["type"] for livemode in (True, False) for event in seeded.events(livemode)}
    assert "payment_intent.updated" not in kinds
    assert {"invoice.paid", "charge.refund.updated", "customer.deleted", "charge.dispute.closed"} <= kinds


def test_invoice_upcoming_has_no_id(shop: Shop, get: Get) -> None:
    invoice = shop.create_invoice(announce=False)
    del invoice["id"]
    shop.emit_event("invoice.upcoming", invoice, livemode=False)
    assert "id" not in get("/v1/events?type=invoice.upcoming").json()["data"][0]["data"]["object"]


def test_recorded_events_are_listed_unchanged(shop: Shop, get: Get) -> None:
    event = {"id": "evt_old", "object": "event", "type": "odd.kind", "created": NOW - 5, "livemode": True, "x": 1}
    shop.put(event)
    assert get("/v1/events", LIVE_KEY).json()["data"] == [event]
