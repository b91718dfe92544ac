"""The emulator as a separate process, for the demo: `python -m stripe_emulator`."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading

from stripe_emulator.server import Server
from stripe_emulator.shop import Shop

_CHECK_PARENT_SECONDS = 0.2
_WEBHOOK_SECRETS = {True: "STRIPE_WEBHOOK_SECRET", False: "STRIPE_TEST_WEBHOOK_SECRET"}
"""Variables, not options: every user of the machine can read a process's arguments."""


def main() -> int:
    """Serve a seeded shop until stopped, or until the parent process has exited."""
    parser = argparse.ArgumentParser(prog="python -m stripe_emulator", description="A Stripe API on 127.0.0.1.")
    parser.add_argument("--port", type=int, default=12111, help="0 takes any free one (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="which made-up shop (default: %(default)s)")
    parser.add_argument("--days", type=int, default=60, help="days of history (default: %(default)s)")
    parser.add_argument(
        "--trade-every", type=float, help="seconds between two actions; 0 for none (default: the pace of the history)"
    )
    parser.add_argument("--latency-ms", type=float, default=0.0, help="added to every request (default: %(default)s)")
    parser.add_argument("--rate-limits", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument(
        "--webhook-url",
        metavar="URL",
        help="deliver all events from now on to this URL, signed with STRIPE_WEBHOOK_SECRET (live) and"
        " STRIPE_TEST_WEBHOOK_SECRET (test) from the environment; a mode without a secret sends none",
    )
    parser.add_argument(
        "--webhook-backoff",
        type=float,
        default=1.0,
        metavar="FACTOR",
        help="for Stripe's waits before it delivers again, such as 0.001 for seconds instead of hours",
    )
    options = parser.parse_args()
    if options.webhook_backoff <= 0:
        parser.error("--webhook-backoff must be more than 0")
    secrets = {livemode: secret for livemode, name in _WEBHOOK_SECRETS.items() if (secret := os.environ.get(name))}
    if options.webhook_url and not secrets:
        parser.error(f"--webhook-url needs {' or '.join(_WEBHOOK_SECRETS.values())} in the environment")
    parent = os.getppid()
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    shop = Shop(seed=options.seed)
    shop.async_capture = 0.3
    shop.seed_history(options.days)
    for livemode, secret in secrets.items() if options.webhook_url else ():
        shop.create_webhook_endpoint(options.webhook_url, secret=secret, livemode=livemode)
    server = Server(
        shop,
        port=options.port,
        webhook_backoff=options.webhook_backoff,
        rate_limits=options.rate_limits,
        latency_ms=options.latency_ms,
    )
    try:
        server.__enter__()
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        print(
            f"Port {options.port} of 127.0.0.1 cannot be used: {reason}. Choose another with --port.", file=sys.stderr
        )
        return 1
    try:
        if options.trade_every is None:
            server.go_on_trading()
        elif options.trade_every > 0:
            server.trade_every(options.trade_every)
        print(f"Stripe emulator on {server.url}", flush=True)
        while not stop.wait(_CHECK_PARENT_SECONDS) and os.getppid() == parent:
            pass
    finally:
        server.__exit__(None, None, None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
