"""The view `subscriptions` of the schemas `bi`: items of subscriptions with price, product and customer."""

from __future__ import annotations

from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.bi.flat import OF_CUSTOMER, Flat, Join, fields, flat_view
from stripe_pipeline.views.view import View

_COLUMNS = (
    *fields("subscription_items", "subscription", prefix=""),
    Flat("item", "subscription_items.id", "ID of the subscription item"),
    *fields("subscriptions", "created status start_date ended_at cancel_at cancel_at_period_end canceled_at"),
    *fields("subscriptions", "trial_start trial_end billing_cycle_anchor collection_method currency"),
    *fields("subscription_items", "current_period_start current_period_end quantity"),
    Flat("price", "subscription_items.price.id", "ID of the price"),
    Flat("price_nickname", "subscription_items.price.nickname", "The shop's own short name of the price"),
    Flat(
        "unit_amount",
        "subscription_items.price.unit_amount",
        "Price of one unit in minor units of `currency`; null if it has fractions or tiers",
        "BIGINT",
        currency="subscription_items.price.currency",
    ),
    Flat("billing_interval", "subscription_items.price.recurring.interval", "`day`, `week`, `month` or `year`"),
    Flat(
        "interval_count",
        "subscription_items.price.recurring.interval_count",
        "Number of intervals between two bills",
        "BIGINT",
    ),
    Flat("usage_type", "subscription_items.price.recurring.usage_type", "`licensed` or `metered`"),
    Flat("product", "subscription_items.price.product", "ID of the product"),
    Flat("product_name", "products.name", "Name of the product; null unless `products` are loaded"),
    *fields("subscriptions", "customer default_payment_method latest_invoice description"),
    *OF_CUSTOMER,
    Flat("cancellation_reason", "subscriptions.cancellation_details.reason", "Why the subscription was canceled"),
    Flat(
        "cancellation_feedback",
        "subscriptions.cancellation_details.feedback",
        "What the customer gave as the reason, such as `too_expensive`",
    ),
)


def subscriptions(settings: Settings) -> View:
    """The view with the columns that the settings keep."""
    return flat_view(
        settings,
        name="subscriptions",
        title="Subscriptions for BI tools",
        description="One row per item of a subscription: most subscriptions have one item.",
        columns=_COLUMNS,
        joins=(
            Join("subscriptions", "subscription_items.subscription"),
            Join("customers", "subscriptions.customer"),
            Join("products", "subscription_items.price.product"),
        ),
    )
