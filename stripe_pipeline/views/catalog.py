"""All views, in an order in which each view follows the views that it uses.

To add one that combines tables, write its module beside `payments`, or in `finance`, and name it in `COMBINED`, or
write one for BI tools in `bi`, and name it in `FOR_BI`: the file, its comments, the assets and docs/tables.md follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.balance_transactions import balance_transactions as bi_balance_transactions
from stripe_pipeline.views.bi.customers import customers as bi_customers
from stripe_pipeline.views.bi.disputes import disputes as bi_disputes
from stripe_pipeline.views.bi.invoice_lines import invoice_lines as bi_invoice_lines
from stripe_pipeline.views.bi.invoices import invoices as bi_invoices
from stripe_pipeline.views.bi.payments import payments as bi_payments
from stripe_pipeline.views.bi.payouts import payouts as bi_payouts
from stripe_pipeline.views.bi.refunds import refunds as bi_refunds
from stripe_pipeline.views.bi.subscriptions import subscriptions as bi_subscriptions
from stripe_pipeline.views.discounts import discounts
from stripe_pipeline.views.finance.balance_by_day import balance_by_day
from stripe_pipeline.views.finance.balance_change_from_activity import balance_change_from_activity
from stripe_pipeline.views.finance.customers import customers
from stripe_pipeline.views.finance.mrr import mrr
from stripe_pipeline.views.finance.mrr_movements import mrr_movements
from stripe_pipeline.views.finance.payouts import payouts
from stripe_pipeline.views.finance.revenue_by_month import revenue_by_month
from stripe_pipeline.views.fivetran import mapping
from stripe_pipeline.views.fivetran.tables import TABLES
from stripe_pipeline.views.one_type import view_of
from stripe_pipeline.views.payments import payments
from stripe_pipeline.views.view import View

COMBINED: tuple[Callable[[Settings], View], ...] = (
    payments,
    discounts,
    balance_by_day,
    payouts,
    balance_change_from_activity,
    customers,
    revenue_by_month,
    mrr,
    mrr_movements,
)
"""Views that combine several tables."""

FOR_BI: tuple[Callable[[Settings], View], ...] = (
    bi_payments,
    bi_refunds,
    bi_disputes,
    bi_customers,
    bi_invoices,
    bi_invoice_lines,
    bi_balance_transactions,
    bi_payouts,
    bi_subscriptions,
)
"""Views for BI tools, which exist if the settings ask for them and the table of their rows is loaded."""


def views(settings: Settings, types: Iterable[ObjectType] | None = None) -> tuple[View, ...]:
    """The views of a file that has the tables of these types, by default of those that the settings require."""
    return (
        *(view_of(object_type, settings) for object_type in (settings.required if types is None else types)),
        *(combined(settings) for combined in COMBINED),
        *(mapping.view_of(table, settings) for table in TABLES if settings.compat.fivetran),
        *(_for_bi(settings) if settings.bi else ()),
    )


def _for_bi(settings: Settings) -> Iterator[View]:
    enabled = {object_type.name for object_type in settings.enabled}
    for make in FOR_BI:
        view = make(settings)
        if view.rows_of in enabled:
            yield view


def selects(settings: Settings, types: Iterable[ObjectType]) -> dict[str, str]:
    """The SELECT of every view by its qualified name, for example `live.charges`, in the order of `views`."""
    return {f"{schema}.{view.name}": view.select(schema) for view in views(settings, types) for schema in view.schemas}
