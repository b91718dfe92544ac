"""Read all charges with tap-stripe: `tap_stripe_charges.py URL FOLDER`, in the tap's own environment."""

import contextlib
import json
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import stripe
import tap_stripe

KEY = "sk_live_of_the_benchmark"
ACCOUNT = "acct_1DemoShop0000000"


def main(url: str, folder: Path) -> None:
    """Runs the tap with the stream `charges` selected, and writes Singer's JSON lines to a file."""
    stripe.api_base = url
    # The tap looks for Stripe's own address in each request, only to measure its time.
    tap_stripe.apply_request_timer_to_client = lambda _: None
    start = datetime.now(UTC) - timedelta(days=101)
    config = {"account_id": ACCOUNT, "client_secret": KEY, "start_date": f"{start:%Y-%m-%dT00:00:00Z}"}
    catalog = tap_stripe.discover()
    for stream in catalog["streams"]:
        for entry in stream["metadata"]:
            entry["metadata"]["selected"] = stream["stream"] == "charges"
    files = {"config": config, "catalog": catalog}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    sys.argv = ["tap-stripe", *(word for name in files for word in (f"--{name}", str(folder / f"{name}.json")))]
    with (folder / "charges.jsonl").open("w") as lines, contextlib.redirect_stdout(lines):
        tap_stripe.main()


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
