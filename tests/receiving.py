"""The webhook receiver in a thread, between an emulator and a data folder."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from stripe_emulator import Server
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.inbox.inbox import Inbox
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.webhooks.receiver import PATH, create_app
from stripe_pipeline.webhooks.server import address_of, listen

SECRETS = {True: "whsec_live_of_the_tests", False: "whsec_test_of_the_tests"}


@contextmanager
def receiving(server: Server, folder: DataFolder) -> Iterator[None]:
    """Deliver the emulator's events of both modes to the inbox of a data folder."""
    folder.prepare()
    inbox = Inbox(folder)
    listener = listen("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(inbox, list(SECRETS.values()), OBJECT_TYPES), lifespan="on", ws="none", log_config=None
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [listener]})
    thread.start()
    endpoints = [
        server.shop.create_webhook_endpoint(f"{address_of(listener)}{PATH}", livemode=livemode, secret=secret)
        for livemode, secret in SECRETS.items()
    ]
    try:
        yield
    finally:
        for endpoint in endpoints:
            server.shop.vanish("webhook_endpoints", endpoint["id"], livemode=endpoint["livemode"])
        running.should_exit = True
        thread.join(20)
        listener.close()
        inbox.close()
