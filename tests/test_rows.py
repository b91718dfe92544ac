"""Objects are stored as Stripe sent them, expected or not, and no object stops the other types."""

from __future__ import annotations

import itertools
import json
import math
from datetime import UTC, datetime
from typing import Any

import duckdb
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stripe_emulator import Fault, Shop
from stripe_emulator.server import Server
from stripe_pipeline.batch import Batch, Mode
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.objects import ALL_TYPES, KINDS, OBJECT_TYPES, Kind, ObjectType
from stripe_pipeline.rows import Surprises, restore, shape
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.sync.report import Report
from stripe_pipeline.warehouse.warehouse import Warehouse
from tests.conftest import MakePipeline
from tests.stripe_state import all_columns, assert_equal_to_stripe, rows, without_nulls
from tests.variants import varied

Json = dict[str, Any]

TEST_KEYS = {"STRIPE_TEST_API_KEY": "sk_test_of_the_tests"}
MODE = Mode("acct_1DemoShop0000000", livemode=False)


class Loader:
    """Puts objects into the shop, loads them, and reads the published file."""

    def __init__(self, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder) -> None:
        self.shop = shop
        self.folder = folder
        self.now = int(shop.clock.now())
        self.today = datetime.fromtimestamp(self.now, UTC).date()
        self._pipeline = make_pipeline(TEST_KEYS, history=self.today, objects="all")

    def load(self, *objects: Json) -> Report:
        for obj in objects:
            self.shop.put(obj)
        return self._pipeline.sync([self.today])

    def row(self, table: str, object_id: str) -> Json:
        [row] = [row for row in rows(self.folder.published, f"test.{table}") if row["id"] == object_id]
        return row

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.folder.published), read_only=True) as connection:
            return connection.execute(sql).fetchall()

    def object(self, kind: str, object_id: str, **fields: Any) -> Json:
        return {"id": object_id, "object": kind, "created": self.now - 60, "livemode": False} | fields


@pytest.fixture
def loader(shop: Shop, make_pipeline: MakePipeline, folder: DataFolder) -> Loader:
    """An empty shop and data folder, and the pipeline between them."""
    return Loader(shop, make_pipeline, folder)


def test_unknown_fields_can_be_queried(loader: Loader) -> None:
    unknown = {
        "loyalty": {"tier": "gold", "points": [1, 2, {"x": None}]},
        "Name": "not name",
        "_extra": 1,
        "_account": 2,
    }
    report = loader.load(loader.object("customer", "cus_1", name="Ada", **unknown, nothing=None))

    assert report.failures == {}
    assert report.surprises.seen == {}  # Stripe adds fields at any time.
    assert loader.query("SELECT _extra->>'$.loyalty.tier', _extra->'loyalty'->'points'->>1 FROM test.customers") == [
        ("gold", "2")
    ]
    assert json.loads(loader.row("customers", "cus_1")["_extra"]) == unknown
    assert loader.row("customers", "cus_1")["name"] == "Ada"
    assert_equal_to_stripe(loader.shop, loader.folder.published)


ODD_VALUES: list[tuple[str, str, Any]] = [
    ("charge", "amount", {"value": 1}),
    ("charge", "amount", "100"),
    ("charge", "amount", 12.5),
    ("charge", "amount", 12.0),
    ("charge", "amount", True),
    ("charge", "amount", [100]),
    ("charge", "amount", 2**63),
    ("charge", "amount", 2**64 - 1),
    ("charge", "status", 7),
    ("charge", "status", False),
    ("charge", "status", {"id": "succeeded", "since": 1}),
    ("charge", "status", ["succeeded"]),
    ("charge", "customer", 5),
    ("charge", "customer", {"name": "no id"}),
    ("charge", "customer", {"id": 5}),
    ("charge", "paid", 1),
    ("charge", "paid", "true"),
    ("charge", "livemode", "no"),
    ("balance_transaction", "exchange_rate", "1.25"),
    ("balance_transaction", "exchange_rate", True),
    ("balance_transaction", "exchange_rate", 2**53 + 1),
    ("balance_transaction", "available_on", -1),
    ("balance_transaction", "available_on", 253_402_300_800),
    ("balance_transaction", "available_on", 2**62),
    ("balance_transaction", "available_on", "2026-01-01"),
    ("balance_transaction", "available_on", 1_700_000_000.5),
]


def test_values_of_an_unexpected_type_are_stored_and_reported_without_a_failure(loader: Loader) -> None:
    objects = [
        loader.object(kind, f"{'ch' if kind == 'charge' else 'txn'}_{number}", **{name: value})
        for number, (kind, name, value) in enumerate(ODD_VALUES)
    ]
    for obj in objects:
        if obj["object"] == "balance_transaction":
            del obj["livemode"]
            obj["fee_details"] = []
        loader.shop.put(obj, livemode=False)
    good = [loader.object("charge", "ch_good", amount=1, paid=True), loader.object("customer", "cus_1")]

    report = loader.load(*good)

    assert report.failures == {}
    for obj, (kind, name, value) in zip(objects, ODD_VALUES, strict=True):
        table = f"{kind}s"
        row = loader.row(table, obj["id"])
        assert row[name] is (False if name == "livemode" else None), (name, value)
        assert _same(json.loads(row["_extra"]), {name: value})
        assert f"{table}.{name}" in report.surprises.seen
    count, example = report.surprises.seen["charges.amount"]
    assert (count, example) == (8, "ch_7")  # newest first
    assert report.surprises.seen.keys() == {f"{kind}s.{name}" for kind, name, _ in ODD_VALUES}
    assert loader.row("charges", "ch_good")["amount"] == 1
    assert loader.row("customers", "cus_1")
    assert_equal_to_stripe(loader.shop, loader.folder.published)


def _same(first: Any, second: Any) -> bool:
    """Equal, and of the same types: 1, 1.0 and True are three values."""
    if first.__class__ is not second.__class__:
        return False
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(_same(first[name], second[name]) for name in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(_same, first, second))
    return bool(first == second)


def test_integers_that_no_column_can_hold_cause_no_failure(loader: Loader, server: Server) -> None:
    charge = loader.object("charge", "ch_1", amount=0, metadata={})
    body = orjson.dumps({"object": "list", "data": [charge], "has_more": False})
    body = body.replace(b'"amount":0', b'"amount":1' + b"0" * 30).replace(b'"metadata":{}', b'"metadata":{"n":1e30}')
    server.faults.append(Fault(path="/v1/charges$", body=body))

    report = loader.load()

    assert report.failures == {}
    row = loader.row("charges", "ch_1")
    assert row["amount"] is None
    assert (
        json.loads(row["_extra"])["amount"] == 1e30
    )  # The nearest double, which is as exact as most readers of JSON are.
    assert "charges.amount" in report.surprises.seen


def test_expanded_references_keep_their_id_and_the_expanded_object(loader: Loader) -> None:
    customer = loader.object("customer", "cus_1", name="Ada", metadata={"a": "1"})
    deleted = {"id": "pm_1", "object": "payment_method", "deleted": True}
    report = loader.load(
        customer,
        loader.object("charge", "ch_expanded", customer=customer, payment_method=deleted),
        loader.object("charge", "ch_plain", customer="cus_1", payment_method="pm_1"),
    )

    assert report.surprises.seen == {}
    assert loader.query("SELECT DISTINCT customer, payment_method FROM test.charges") == [("cus_1", "pm_1")]
    assert loader.query("SELECT _extra->>'$.customer.name' FROM test.charges WHERE id = 'ch_expanded'") == [("Ada",)]
    assert json.loads(loader.row("charges", "ch_expanded")["_extra"]) == {
        "customer": customer,
        "payment_method": deleted,
    }
    assert loader.row("charges", "ch_plain")["_extra"] is None


def test_a_line_with_an_expanded_invoice_belongs_to_that_invoice(loader: Loader) -> None:
    expanded = {"id": "in_1", "object": "invoice"}
    line = {"id": "il_1", "object": "line_item", "livemode": False, "amount": 5, "invoice": expanded}
    lines = {"object": "list", "data": [line], "has_more": False}
    report = loader.load(loader.object("invoice", "in_1", lines=lines))
    assert report.surprises.seen == {}
    row = loader.row("invoice_lines", "il_1")
    assert row["invoice"] == "in_1"
    assert json.loads(row["_extra"]) == {"invoice": expanded}


def test_metadata_is_stored_key_by_key(loader: Loader) -> None:
    metadata = {
        "a b": "1",
        "a_b": "2",
        "A_B": "3",
        "🦆": "żółw 🐢 \U0001f468‍\U0001f469‍\U0001f467",
        "long": "x" * 499 + "é",
        "quotes": "'\"`\\;--/*",
        "empty": "",
        "null": "null",
    }
    loader.load(loader.object("customer", "cus_1", metadata=metadata))
    assert json.loads(loader.row("customers", "cus_1")["metadata"]) == metadata
    assert loader.query("SELECT metadata->>'a b', metadata->>'a_b', metadata->>'A_B' FROM test.customers") == [
        ("1", "2", "3")
    ]

    loader.shop.update_customer("cus_1", metadata={"a_b": "2", "A_B": "3"})
    loader.load()
    assert json.loads(loader.row("customers", "cus_1")["metadata"]) == {"a_b": "2", "A_B": "3"}


TEXTS = [
    *("a\x00b", "\x00", "it's", '"quoted"', "line\nbreak\r\n\ttab", "\\u0041 \\", "null", "", "[1]", "7", "true"),
    *("\u2028 \ufeff 🦆", "2026-01-01", " spaces ", "x" * 5_000),
]


def test_any_text_is_stored_unchanged(loader: Loader) -> None:
    report = loader.load(
        *(
            loader.object("customer", f"cus_{n}", name=text, metadata={"k": text}, new=text, address={text: text})
            for n, text in enumerate(TEXTS)
        )
    )
    assert (report.failures, report.surprises.seen) == ({}, {})
    for n, text in enumerate(TEXTS):
        row = loader.row("customers", f"cus_{n}")
        assert row["name"] == text
        assert json.loads(row["metadata"]) == {"k": text}
        assert json.loads(row["address"]) == {text: text}
        assert json.loads(row["_extra"]) == {"new": text}
    assert_equal_to_stripe(loader.shop, loader.folder.published)


def test_money_is_exact_and_in_minor_units(loader: Loader) -> None:
    amounts = {
        "ch_jpy": (500, "jpy"),
        "ch_kwd": (12_345, "kwd"),
        "ch_32_bits": (2**31 + 1, "usd"),
        "ch_double": (2**53 + 1, "idr"),
        "ch_largest": (2**63 - 1, "idr"),
        "ch_negative": (-(2**63), "idr"),
    }
    report = loader.load(
        *(loader.object("charge", name, amount=amount, currency=code) for name, (amount, code) in amounts.items())
    )
    assert report.surprises.seen == {}
    charges = loader.query("SELECT id, amount, currency FROM test.charges")
    assert {object_id: (amount, code) for object_id, amount, code in charges} == amounts
    assert loader.query("SELECT typeof(amount) FROM test.charges LIMIT 1") == [("BIGINT",)]


def test_decimals_are_exact_text(loader: Loader) -> None:
    decimals = ["0.100000000000000000001", "1.0", "1", "-0.5", "123456789012345678901234567890.5"]
    lines = [
        {"id": f"il_{n}", "object": "line_item", "invoice": "in_1", "livemode": False, "quantity_decimal": decimal}
        for n, decimal in enumerate(decimals)
    ]
    loader.load(loader.object("invoice", "in_1", lines={"object": "list", "data": lines, "has_more": False}))
    stored = loader.query("SELECT quantity_decimal FROM test.invoice_lines ORDER BY id")
    assert [decimal for (decimal,) in stored] == decimals


@pytest.mark.both_modes
def test_columns_without_values_exist(loader: Loader) -> None:
    loader.load(loader.object("customer", "cus_1", phone=None))
    for schema in ("raw", "live", "test"):
        for table, object_type in ALL_TYPES.items():
            with duckdb.connect(str(loader.folder.published), read_only=True) as connection:
                columns = connection.execute(f"SELECT * FROM {schema}.{table}").description or []
            stored = all_columns(object_type)
            names = [name for name, *_ in columns]
            if schema == "raw":
                assert names == stored
            else:  # the columns that views add come last
                shown = [name for name in stored if name != "_deleted_at"]
                assert names[: len(shown) + 2] == [*shown, "default_date", "default_day"]
    assert loader.query("SELECT phone, business_name FROM test.customers") == [(None, None)]


BAD: list[Json] = [
    {"id": None},
    {"id": 5},
    {"id": {"id": "x"}},
    {"created": None},
    {"created": "1700000000"},
    {"created": {}},
    {"created": -5},
]
BAD_TYPES = ("charges", "customers", "disputes", "payment_intents", "refunds", "invoices")


@pytest.mark.parametrize(("has_more", "shift"), varied([(False, 0), (True, 1)]))
def test_an_object_that_no_row_can_hold_is_left_out_and_its_type_fails(
    loader: Loader, server: Server, has_more: bool, shift: int
) -> None:
    lines = {"object": "list", "data": [], "has_more": False}
    old = {
        table: loader.object(OBJECT_TYPES[table].object, f"{table}_1", status="old", currency="usd", lines=lines)
        for table in BAD_TYPES
    }
    transaction = loader.object("balance_transaction", "txn_1", fee_details=[])
    loader.load(*old.values(), transaction)
    of_families = {child.name for child in ALL_TYPES.values() if child.parent in BAD_TYPES}
    for table, wrong in zip(BAD_TYPES, BAD[shift:], strict=False):
        objects = [
            old[table] | {"currency": "eur"},
            without_nulls(old[table] | wrong),
            old[table] | {"id": f"{table}_2"},
        ]
        loader.shop.put(objects[-1])  # so that what belongs to the object can be listed
        page = {"object": "list", "data": objects, "has_more": has_more}
        server.faults.append(Fault(path=f"/v1/{table}$", body=page))

    report = loader.load(transaction | {"id": "txn_2"})

    assert set(report.failures) == {*BAD_TYPES, *of_families}
    for table in BAD_TYPES:
        assert {row["id"] for row in rows(loader.folder.published, f"raw.{table}")} == {f"{table}_1", f"{table}_2"}
    assert {row["id"] for row in rows(loader.folder.published, "test.balance_transactions")} == {"txn_1", "txn_2"}

    assert loader.load().failures == {}
    assert_equal_to_stripe(loader.shop, loader.folder.published)


def test_lines_that_no_row_can_hold_fail_invoices_only(loader: Loader, server: Server) -> None:
    good = {"id": "il_1", "object": "line_item", "invoice": "in_1", "livemode": False}
    invoice = loader.object("invoice", "in_1", lines={"object": "list", "data": [good], "has_more": False})
    loader.load(invoice)
    without_id: Json = {"object": "line_item"}
    bad_data: tuple[Any, ...] = (["il_1"], [without_id], None)
    for data in bad_data:
        bad = invoice | {"lines": {"object": "list", "data": data, "has_more": False}}
        server.faults[:] = [Fault(path="/v1/invoices$", body={"object": "list", "data": [bad], "has_more": False})]

        report = loader.load(loader.object("charge", "ch_1"))

        assert set(report.failures) == {"invoices", "invoice_discounts", "invoice_lines"}, data
        assert [row["id"] for row in rows(loader.folder.published, "test.invoice_lines")] == ["il_1"]
        assert loader.row("charges", "ch_1")


# Any JSON at all

_CHARACTERS = st.characters(codec="utf-8")  # without single surrogates, which are not text
_TEXT = st.text(_CHARACTERS, max_size=8)
_leaves = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    _TEXT,
    st.sampled_from([0, 1, 2**31, 2**53 + 1, 2**63 - 1, "null", "1", "2026-01-01", "a\x00b", 253_402_300_799]),
)
_values = st.recursive(
    _leaves,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.one_of(st.sampled_from(["id", "object"]), st.text(_CHARACTERS, max_size=4)), inner, max_size=3
        ),
        st.fixed_dictionaries({"id": st.text(_CHARACTERS, max_size=5), "object": st.just("customer")}),
    ),
    max_leaves=6,
)


_FITTING: dict[Kind, st.SearchStrategy[Any]] = {
    KINDS["integer"]: st.integers(-(2**63), 2**63 - 1),
    KINDS["amount"]: st.integers(-(2**63), 2**63 - 1),
    KINDS["timestamp"]: st.integers(0, 253_402_300_799),
    KINDS["boolean"]: st.booleans(),
    KINDS["number"]: st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53)),
}
"""Values that fit a column of the kind; the other kinds take text."""


@st.composite
def _objects(draw: st.DrawFn) -> tuple[ObjectType, list[Json]]:
    object_type = draw(st.sampled_from([listed for listed in Settings().types.values() if listed.endpoint]))
    kinds = {column.name: column.kind for column in object_type.columns}
    names = st.one_of(st.sampled_from(sorted(kinds)), st.text(_CHARACTERS, max_size=6))

    def value(name: str) -> st.SearchStrategy[Any]:
        return st.one_of(_FITTING.get(kinds[name], _TEXT), _values) if name in kinds else _values

    objects = []
    for _ in range(draw(st.integers(1, 15))):
        obj = {name: draw(value(name)) for name in draw(st.lists(names, max_size=8, unique=True))}
        objects.append(obj | {"created": draw(_FITTING[KINDS["timestamp"]])})
    return object_type, objects


_numbers = itertools.count()


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(drawn=_objects())
def test_any_object_is_restored_as_it_was(folder: DataFolder, drawn: tuple[ObjectType, list[Json]]) -> None:
    object_type, objects = drawn
    objects = [obj | {"id": f"x_{next(_numbers)}"} for obj in objects]
    folder.prepare()
    file = folder.spool / "rows.ndjson"
    surprises = Surprises()
    file.write_bytes(
        b"".join(
            shape(object_type, obj, account=MODE.account, livemode=False, fetched_at=1e9, surprises=surprises)
            # As Stripe sends them: as text.
            for obj in orjson.loads(orjson.dumps(objects))
        )
    )
    batch = Batch(object_type, (), MODE, files={object_type.name: [file]})
    created = [obj["created"] for obj in objects]
    batch.first, batch.last = min(created), max(created)
    warehouse = Warehouse(folder, Settings.model_validate({"objects": "all"}))
    warehouse.load([batch])
    warehouse.publish()
    loaded = {row["id"]: row for row in rows(folder.published, f"raw.{object_type.name}")}

    for obj in objects:
        row = loaded[obj["id"]]
        expected = without_nulls(obj)
        if "livemode" in all_columns(object_type) and not _adds_livemode(object_type):
            expected = {"livemode": False} | expected  # The key's mode, where the object does not say.
        assert _equal(restore(object_type, row), expected)
        assert row["livemode"] is (obj.get("livemode") is True)


def _adds_livemode(object_type: ObjectType) -> bool:
    return any(column.name == "livemode" and column.added for column in object_type.columns)


def _equal(first: Any, second: Any) -> bool:
    """Like `_same`, except that a number column does not distinguish 1 from 1.0."""
    if isinstance(first, float) and first.__class__ is not second.__class__ and second.__class__ is int:
        return math.isclose(first, second, rel_tol=0, abs_tol=0)
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(_equal(first[name], second[name]) for name in first)
    return _same(first, second)
