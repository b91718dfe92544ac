"""The view `payments` of the schemas `bi`: charges with outcome, card, risk, addresses and effect on the balance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views import payments as of_mode
from stripe_pipeline.views.bi.flat import Flat, address, described, fields, value_of
from stripe_pipeline.views.columns import Source, selectable
from stripe_pipeline.views.view import BI, DescribedColumn, View

_OF_CHARGES = (
    *fields("charges", "description failure_message statement_descriptor receipt_email receipt_number"),
    Flat("payment_method_type", "charges.payment_method_details.type", "Type of payment method, such as `card`"),
    Flat("card_last4", "charges.payment_method_details.card.last4", "Last four digits of the card"),
    Flat("card_exp_month", "charges.payment_method_details.card.exp_month", "Month when the card expires", "BIGINT"),
    Flat("card_exp_year", "charges.payment_method_details.card.exp_year", "Year when the card expires", "BIGINT"),
    Flat("card_wallet", "charges.payment_method_details.card.wallet.type", "Wallet of the card, such as `apple_pay`"),
    Flat(
        "card_three_d_secure",
        "charges.payment_method_details.card.three_d_secure.result",
        "Result of 3D Secure, such as `authenticated`",
    ),
    Flat("risk_score", "charges.outcome.risk_score", "Radar's score from 0 to 99", "BIGINT"),
    Flat(
        "outcome_type",
        "charges.outcome.type",
        "`authorized`, `issuer_declined`, `blocked`, `manual_review` …",
    ),
    Flat("network_status", "charges.outcome.network_status", "The network's answer, such as `approved_by_network`"),
    Flat("network_decline_code", "charges.outcome.network_decline_code", "The network's own code of the decline"),
    Flat("billing_name", "charges.billing_details.name", "Name given for the payment"),
    Flat("billing_email", "charges.billing_details.email", "Email address given for the payment"),
    Flat("billing_phone", "charges.billing_details.phone", "Phone number given for the payment"),
    *address("charges", "billing_details.address", "billing_", "the address given for the payment"),
    Flat("shipping_name", "charges.shipping.name", "Name to deliver to"),
    *address("charges", "shipping.address", "shipping_", "the address to deliver to"),
)


def payments(settings: Settings) -> View:
    """The columns of `payments` in the schema of the mode, and those of the charge; the day is left out, which depends
    on a time zone."""
    kept = selectable(settings)
    below = of_mode.payments(settings)
    names = [column.name for column in _of_payments(below)]
    return View(
        name="payments",
        title="Payments for BI tools",
        description="One row per charge, with its customer, invoice, refunds, dispute, card, risk and addresses.",
        describe=lambda: (*_of_payments(below), *described(_OF_CHARGES, settings)),
        tables=below.tables,
        rows_of="charges",
        select=lambda schema: _select(Source(BI[schema], kept), below, names),
        schemas=tuple(BI),
    )


def _of_payments(view: View) -> Iterator[DescribedColumn]:
    """The columns of the view of the mode that have a type for every tool."""
    for column in view.columns:
        if column.sql_type != "DATE":
            in_utc = column.sql_type == "TIMESTAMPTZ"
            yield replace(column, sql_type="TIMESTAMP") if in_utc else column


def _select(source: Source, below: View, names: list[str]) -> str:
    types = {column.name: column.sql_type for column in below.columns}
    shown = [
        f"(payments.{name} AT TIME ZONE 'UTC') AS {name}" if types[name] == "TIMESTAMPTZ" else f"payments.{name}"
        for name in names
    ]
    shown += [f'{value_of(column)} AS "{column.name}"' for column in _OF_CHARGES]
    needed = " ".join(dict.fromkeys(["id", *(column.steps[0] for column in _OF_CHARGES)]))
    return (
        f"SELECT {', '.join(shown)}\nFROM {source.schema}.payments payments"
        f"\nLEFT JOIN {source.rows('charges', needed)} charges ON charges.id = payments.charge"
    )
