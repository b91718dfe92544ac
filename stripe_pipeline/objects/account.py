"""The declarations of the account itself, and of the events that report its changes."""

from __future__ import annotations

from stripe_pipeline.objects.declaration import ObjectType, Reference, columns

ACCOUNT = ObjectType(
    name="account",
    object="account",
    optional=True,
    description="The account that the key belongs to, as read once a day: a row a reading, with the time of the reading"
    " in created.",
    endpoint="/v1/account",
    singleton=True,
    key=("id", "created"),
    columns=columns(
        added={"created": "timestamp", "livemode": "boolean"},
        text="business_type country default_currency email id object type",
        boolean="charges_enabled details_submitted payouts_enabled",
        nested="""
            business_profile capabilities company controller external_accounts future_requirements groups
            individual metadata requirements settings tos_acceptance
        """,
    ),
    personal=("company", "email", "individual"),
    about_person=("business_profile", "external_accounts", "metadata", "settings", "tos_acceptance"),
)

EVENTS = ObjectType(
    name="events",
    object="event",
    optional=True,
    description="Stripe's events, which stay here longer than the 30 days for which Stripe keeps them. The column data,"
    " with the object, is stored only where the settings name it.",
    endpoint="/v1/events",
    kept_days=30,
    lists_all=False,
    columns=columns(
        added={"object_id": "reference", "object_type": "text"},
        text="account api_version context id object type",
        integer="pending_webhooks",
        timestamp="created",
        boolean="livemode",
        nested="data request",
    ),
    derived=(("object_id", "data.object.id"), ("object_type", "data.object.object")),
    secrets=("data",),
    about_person=("data",),
    # Whatever the event is about may be older than the history, and may be gone.
    references=tuple(
        Reference(column="object_id", target=target, prefixes=prefixes, may_be_older=True, may_be_gone=True)
        for target, prefixes in {
            "charges": ("ch_", "py_"),
            "checkout_sessions": ("cs_",),
            "credit_notes": ("cn_",),
            "customers": ("cus_",),
            "disputes": ("dp_", "du_"),
            "invoices": ("in_",),
            "payment_intents": ("pi_",),
            "payment_methods": ("pm_",),
            "refunds": ("re_", "pyr_"),
            "subscriptions": ("sub_",),
        }.items()
    ),
)
