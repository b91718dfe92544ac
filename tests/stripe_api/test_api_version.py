"""The version of Stripe's API, which every request names."""

from __future__ import annotations

import subprocess
import sys

import pytest
import stripe

from stripe_emulator import Server
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.version import API_VERSION
from stripe_pipeline.webhooks.endpoints import Endpoints
from tests.conftest import KEYS

KEY = ApiKey.from_text(KEYS["STRIPE_TEST_API_KEY"])
URL = "https://shop.example.com/webhooks/stripe"


def test_the_installed_sdk_pins_the_same_version() -> None:
    assert stripe.api_version == API_VERSION, (
        f"stripe-python {stripe.VERSION} pins {stripe.api_version}. Compare its objects with the fields in"
        " stripe_pipeline/objects, then set API_VERSION in stripe_pipeline/stripe_api/version.py and name the new"
        " version in CHANGELOG.md; or install the stripe-python that pins API_VERSION"
    )


@pytest.fixture
def _another_sdk(monkeypatch: pytest.MonkeyPatch) -> None:
    """An SDK that pins another version."""
    monkeypatch.setattr(stripe, "api_version", "2024-06-20")


@pytest.mark.usefixtures("_another_sdk")
def test_every_request_names_the_version_whatever_the_sdk_pins(server: Server) -> None:
    with StripeApi(KEY, base_url=server.url) as api:
        api.get("/v1/account")
        list(api.pages("/v1/charges"))
    endpoints = Endpoints(KEY, base_url=server.url)
    registered = endpoints.register(URL, event_types=["charge.succeeded"])
    endpoints.register(URL, event_types=["charge.failed"])
    assert [endpoint.api_version for endpoint in endpoints.all()] == [API_VERSION]
    endpoints.remove(registered.id)
    assert {request.method for request in server.requests} == {"GET", "POST", "DELETE"}
    assert {request.stripe_version for request in server.requests} == {API_VERSION}


@pytest.mark.parametrize("module", ["settings.loading", "stripe_api.client"])
def test_reading_settings_and_objects_does_not_load_the_sdk(module: str) -> None:
    """The SDK takes longer to load than everything else that these modules import."""
    code = f"import sys, stripe_pipeline.{module}; assert 'stripe' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
