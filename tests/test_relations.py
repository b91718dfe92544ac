"""What the declared references bring: the payments of invoices, the view `payments`, the check of references."""

from __future__ import annotations

import pytest

from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.emulator import Fault, Server, Shop
from stripe_pipeline.sync import Pipeline
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, back


@pytest.fixture
def pipeline(make_pipeline: MakePipeline) -> Pipeline:
    """A pipeline of the test mode."""
    return make_pipeline({"STRIPE_API_KEY": "sk_test_of_the_tests"})


def pay_in_parts(shop: Shop, invoice: str, parts: int, created: int) -> list[str]:
    """Pay an invoice with so many payments; their charges."""
    charges = []
    for _ in range(parts):
        intent = shop.create_payment(amount=100, created=created)
        shop.attach_payment(invoice, intent["id"], created=created)
        charges.append(intent["latest_charge"])
    return charges


def test_an_invoice_carries_its_payments_however_it_is_read(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    listed, retrieved = (shop.create_invoice(n_lines=2, created=back(shop, 20))["id"] for _ in range(2))
    shop.pay_invoice(listed, created=back(shop, 19))
    pipeline.tick()
    shop.pay_invoice(retrieved)
    young = shop.create_invoice()["id"]
    shop.pay_invoice(young)
    shop.pay_invoice(shop.create_invoice()["id"])
    pipeline.tick()
    assert_equal_to_stripe(shop, folder.published)
    found = ask(
        folder.published,
        "SELECT id, payments->>'$.data[0].payment.payment_intent' FROM test.invoices ORDER BY created, id",
    )
    paid = {invoice: shop.payments(invoice, False)[0]["payment"]["payment_intent"] for invoice, _ in found}
    assert dict(found) == paid
    assert {listed, retrieved, young} < paid.keys()
    assert not [request for request in server.requests if request.path == "/v1/invoice_payments"]


def test_more_payments_than_stripe_includes_are_read_from_their_list(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    many, ten = (
        shop.create_invoice(lines=[{"amount": 50_000}], created=back(shop, 20), announce=False)["id"] for _ in range(2)
    )
    pay_in_parts(shop, many, 11, back(shop, 19))
    pay_in_parts(shop, ten, 10, back(shop, 19))
    report = pipeline.tick()
    assert_equal_to_stripe(shop, folder.published)
    pages = [request.params for request in server.requests if request.path == "/v1/invoice_payments"]
    assert [params["invoice"] for params in pages] == [many]
    invoices = [request for request in server.requests if request.path.startswith("/v1/invoices")]
    assert report.requests["invoices"] == len(pages) + len(invoices)
    pay_in_parts(shop, many, 100, back(shop, 0))
    pipeline.tick()
    assert_equal_to_stripe(shop, folder.published)


def test_a_server_that_includes_nothing_is_read_as_before(
    pipeline: Pipeline, shop: Shop, server: Server, folder: DataFolder
) -> None:
    invoice = shop.create_invoice(created=back(shop, 20))
    body = {"object": "list", "data": [invoice], "has_more": False, "url": "/v1/invoices"}
    server.faults.append(Fault(path="/v1/invoices$", status=200, body=body, times=None))
    report = pipeline.tick()
    assert not report.failures
    assert ask(folder.published, "SELECT id, payments FROM test.invoices") == [(invoice["id"], None)]
