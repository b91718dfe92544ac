"""Simulated trade from now on: one plausible action at a time."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from stripe_emulator.shop.actions import Actions
from stripe_emulator.shop.demo_data import DISPUTE_REASONS, GOODS, edit, order_price, person
from stripe_emulator.store import Json


def trade(shop: Actions, random: Random, livemode: bool | None) -> str:
    """Perform one action now; returns its description."""
    mode = random.random() < 0.8 if livemode is None else livemode
    choices: list[tuple[Callable[[Actions, Random, bool], str | None], int]] = [
        (_sell, 40),
        (_sign_up, 12),
        (_decline, 8),
        (_refund, 8),
        (_edit_customer, 12),
        (_send_invoice, 8),
        (_collect_invoice, 8),
        (_open_dispute, 2),
        (_close_dispute, 1),
        (_delete, 1),
    ]
    actions, weights = zip(*choices, strict=True)
    done: str | None = None
    while done is None:
        done = random.choices(actions, weights)[0](shop, random, mode)
    return done


def _sell(shop: Actions, random: Random, livemode: bool) -> str:
    customer, currency = _pick_buyer(shop, random, livemode)
    goods = random.choice(GOODS)
    intent = shop.create_payment(
        customer,
        amount=order_price(random, currency),
        currency=currency,
        livemode=livemode,
        description=f"Order: {goods}",
        metadata={"goods": goods},
    )
    return f"{intent['id']} was paid"


def _decline(shop: Actions, random: Random, livemode: bool) -> str:
    failed = _pick(shop, random, "payment_intents", livemode, lambda intent: _is(intent, "requires_payment_method"))
    if failed and random.random() < 0.5:
        shop.attempt_payment(failed["id"], livemode=livemode)
        return f"{failed['id']} was paid at another attempt"
    customer, currency = _pick_buyer(shop, random, livemode)
    amount = order_price(random, currency)
    intent = shop.create_payment(customer, amount=amount, currency=currency, outcome="failed", livemode=livemode)
    return f"{intent['id']} was declined"


def _sign_up(shop: Actions, random: Random, livemode: bool) -> str:
    return f"{shop.create_customer(livemode=livemode, **person(random))['id']} signed up"


def _edit_customer(shop: Actions, random: Random, livemode: bool) -> str | None:
    customer = _pick(shop, random, "customers", livemode)
    if customer is None:
        return None
    shop.update_customer(customer["id"], livemode=livemode, **edit(random, customer["metadata"]))
    return f"{customer['id']} was edited"


def _refund(shop: Actions, random: Random, livemode: bool) -> str | None:
    charge = _pick(shop, random, "charges", livemode, _is_refundable)
    if charge is None:
        return None
    left = charge["amount_captured"] - charge["amount_refunded"]
    amount = left if random.random() < 0.5 else max(1, left // 2)
    return f"{shop.refund(charge['id'], amount, livemode=livemode)['id']} went back"


def _send_invoice(shop: Actions, random: Random, livemode: bool) -> str | None:
    customer = _pick(shop, random, "customers", livemode)
    if customer is None:
        return None
    lines = min(30, 1 + int(random.expovariate(0.3)))
    currency = customer["currency"] or "usd"
    invoice = shop.create_invoice(customer["id"], n_lines=lines, currency=currency, livemode=livemode)
    return f"{invoice['id']} was sent"


def _collect_invoice(shop: Actions, random: Random, livemode: bool) -> str | None:
    invoice = _pick(shop, random, "invoices", livemode, lambda invoice: _is(invoice, "open", "draft"))
    if invoice is None:
        return None
    outcome = "succeeded" if random.random() < 0.85 else "failed"
    shop.pay_invoice(invoice["id"], outcome=outcome, livemode=livemode)
    return f"{invoice['id']}: payment {outcome}"


def _open_dispute(shop: Actions, random: Random, livemode: bool) -> str | None:
    charge = _pick(shop, random, "charges", livemode, _is_refundable)
    if charge is None:
        return None
    dispute = shop.dispute(charge["id"], reason=random.choice(DISPUTE_REASONS), livemode=livemode)
    return f"{dispute['id']} was opened"


def _close_dispute(shop: Actions, random: Random, livemode: bool) -> str | None:
    dispute = _pick(shop, random, "disputes", livemode, lambda dispute: _is(dispute, "needs_response", "under_review"))
    if dispute is None:
        return None
    closed = shop.close_dispute(dispute["id"], random.random() < 0.4, livemode=livemode)
    return f"{dispute['id']} was {closed['status']}"


def _delete(shop: Actions, random: Random, livemode: bool) -> str | None:
    """Delete a customer or a draft invoice."""
    draft = _pick(shop, random, "invoices", livemode, lambda invoice: _is(invoice, "draft"))
    if draft is not None and random.random() < 0.5:
        shop.delete_invoice(draft["id"], livemode=livemode)
        return f"{draft['id']} was deleted"
    customer = _pick(shop, random, "customers", livemode)
    if customer is None:
        return None
    shop.delete_customer(customer["id"], livemode=livemode)
    return f"{customer['id']} was deleted"


def _pick(
    shop: Actions, random: Random, type_name: str, livemode: bool, suits: Callable[[Json], bool] = lambda _: True
) -> Json | None:
    """Returns one of the newer suitable objects."""
    collection = shop.collection(type_name, livemode)
    newest = [collection.objects[object_id] for object_id, _ in zip(collection, range(300), strict=False)]
    suitable = [obj for obj in newest if suits(obj)]
    return random.choice(suitable) if suitable else None


def _pick_buyer(shop: Actions, random: Random, livemode: bool) -> tuple[str | None, str]:
    """Returns a customer or None, and the currency of the payment."""
    customer = _pick(shop, random, "customers", livemode)
    return (customer["id"], customer["currency"] or "usd") if customer else (None, "usd")


def _is(obj: Json, *statuses: str) -> bool:
    return obj["status"] in statuses


def _is_refundable(charge: Json) -> bool:
    return bool(charge["captured"] and not charge["disputed"] and charge["amount_captured"] > charge["amount_refunded"])
