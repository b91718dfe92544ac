"""Amounts in major units, as SQL.

Base tables keep the minor units that Stripe sends. What views are made of them belongs to `resources.warehouse` and
`resources.relations`.
"""

_ZERO_DECIMAL = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf"
_THREE_DECIMAL = "bhd jod kwd omr tnd"


def major_units(amount_sql: str, currency_sql: str) -> str:
    """The SQL of an amount in major units of its currency, an exact DECIMAL.

    The Ugandan shilling has two decimals here as it has in Stripe (Supported currencies, Special cases).
    """
    return (
        f"{amount_sql}::DECIMAL(19,0) * CASE WHEN {currency_sql} IN ({_listed(_ZERO_DECIMAL)}) THEN 1.000"
        f" WHEN {currency_sql} IN ({_listed(_THREE_DECIMAL)}) THEN 0.001 ELSE 0.010 END"
    )


def _listed(currencies: str) -> str:
    return ", ".join(f"'{currency}'" for currency in currencies.split())
