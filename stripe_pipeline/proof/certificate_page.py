"""A certificate as one HTML page without scripts, to be read, printed and mailed."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from stripe_pipeline.html_page import MARKS, document, table, verdict_line

_MOVED = ("opening", "charges", "refunds", "disputes", "fees", "adjustments", "payouts", "other", "closing")


def page(certificate: Mapping[str, Any]) -> str:
    """The certificate as HTML."""
    previous = certificate["previous"]
    facts = {
        "Account": certificate["account"] or "not named by Stripe",
        "Mode": certificate["mode"],
        "Month": f"{certificate['month']}, days in {certificate['time_zone']}",
        "Made": certificate["made_at"],
        "Made by": f"stripe_pipeline {certificate['version']}",
        "Settings": certificate["settings"],
        "Rows (SHA-256)": certificate["rows_sha256"],
        "Month before": f"{previous['month']}: {previous['rows_sha256']}" if previous else "no certificate",
    }
    proofs = certificate["proofs"]
    drift = certificate["drift"]
    left_out = [
        (table, ", ".join(lists.get("excluded", ())), ", ".join(lists.get("hashed", ())))
        for table, lists in certificate["left_out"].items()
    ]
    title = f"Certificate for {certificate['month']}"
    parts = [
        f"<h1>{escape(title)}</h1>",
        verdict_line(certificate["verdict"], certificate["sentence"]),
        f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>' for name, value in facts.items())}</dl>",
        "<h2>Balance, in minor units</h2>",
        table(
            ("currency", "balance", *_MOVED),
            [
                (row["currency"], row["balance_type"], *(_amount(row[name]) for name in _MOVED))
                for row in certificate["balance"]
            ],
        ),
        "<h2>Comparisons</h2>",
        "<p>Both sides in minor units of the currency, or numbers of rows.</p>",
        table(
            ("", "check", "table", "scope", "rows", "stored", "expected", "difference", "why"),
            [
                (
                    MARKS[proof["verdict"]],
                    proof["check"],
                    proof["table"],
                    " ".join(filter(None, (proof["currency"], proof["scope"]))),
                    *(_amount(proof[name]) for name in ("rows", "left", "right", "difference")),
                    proof["reason"] or "",
                )
                for proof in proofs
            ],
        ),
        "<h2>Tables</h2>",
        table(
            ("table", "rows", "days listed", "days complete", "first request", "last request", "SHA-256 of the rows"),
            [
                (
                    table["table"],
                    *(_amount(table[name]) for name in ("rows", "days_listed", "days_complete")),
                    table["first_request"] or "",
                    table["last_request"] or "",
                    table["rows_sha256"],
                )
                for table in certificate["tables"]
            ],
        ),
        "<h2>Drift</h2>",
        f"<p>{drift['sampled']:,} rows were read again in this month, and {drift['sampled_drifted']:,} differed.</p>",
        table(
            ("table", "found by", "rows that differed without an event"),
            [(found["table"], found["found_by"], _amount(found["rows"])) for found in drift["found"]],
        ),
        "<h2>Left out by the settings</h2>",
        table(("table", "excluded", "hashed"), left_out),
        "<p>Verify this certificate with <code>stripe-pipeline prove --verify</code> and the JSON file beside it.</p>",
    ]
    return document(title, parts)


def _amount(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"
