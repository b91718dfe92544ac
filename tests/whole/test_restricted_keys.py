"""Restricted keys: the permissions that suffice, and the account of a key that may not read its account."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stripe_emulator import Server, Shop
from stripe_emulator.permissions import Wording
from stripe_emulator.types import TYPES
from stripe_pipeline.cli.check import check
from stripe_pipeline.data_folder import DataFolder
from stripe_pipeline.days import today
from stripe_pipeline.errors import SettingsError, StripePipelineError, WarehouseError
from stripe_pipeline.objects import DEFAULT_TYPES
from stripe_pipeline.settings.model import Settings
from tests.conftest import MakePipeline
from tests.stripe_state import ask, assert_equal_to_stripe, days_ago, everything
from tests.variants import varied

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
KEYS = {"STRIPE_API_KEY": "rk_live_of_the_tests", "STRIPE_TEST_API_KEY": "rk_test_of_the_tests"}
LIVE = {"STRIPE_API_KEY": "rk_live_of_the_tests"}
ANOTHER = {"STRIPE_API_KEY": "rk_live_another_one"}


def _needed() -> dict[str, set[str]]:
    needed = {TYPES["events"].permission_label: {"/v1/events"}}
    for object_type in Settings().enabled:
        if object_type.endpoint:
            needed.setdefault(TYPES[object_type.name].permission_label, set()).add(object_type.name)
    return needed


NEEDED = _needed()
"""The permissions that a key needs, by their names in the Dashboard, and what cannot be read without each: types, or
the path of the events."""


def permissions_in_readme() -> list[str]:
    """The Dashboard's names of the permissions that step 2 asks for."""
    [sentence] = re.findall(r"restricted key[^.]*?that may \*\*read\*\*(.*?)\.", README, re.DOTALL)
    return [" ".join(name.split()) for name in re.findall(r"_([^_]+)_", sentence)]


def permissions_in_security() -> list[str]:
    """The Dashboard's names of the permissions in the table, without what stands in parentheses."""
    table = SECURITY.partition("| permission in the Stripe Dashboard |")[2].partition("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines()[2:]]
    return [name.strip() for cell in cells for name in re.sub(r"\(.*?\)", "", cell).split(",")]


@pytest.fixture
def restricted(server: Server) -> Server:
    """The emulator with keys that may do exactly what the README asks for."""
    for key in (*KEYS.values(), *ANOTHER.values()):
        server.permissions.restrict(key, permissions_in_readme())
    return server


def named(folder: DataFolder) -> set[str]:
    """The accounts in all tables that have one."""
    tables = {f"pipeline.{table}": "account" for table in ("keys", "cursors", "coverage")}
    tables |= {f"raw.{table}": "_account" for table in DEFAULT_TYPES}
    every = " UNION ".join(f"SELECT {column} FROM {table}" for table, column in tables.items())
    return {account for (account,) in ask(folder.published, every)}


def test_the_pages_ask_for_the_needed_permissions() -> None:
    assert permissions_in_readme() == sorted(NEEDED)
    assert sorted(permissions_in_security()) == sorted(NEEDED)


@pytest.mark.both_modes
def test_these_permissions_suffice_to_load_everything(
    restricted: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.seed_history(60)  # as the demo does
    pipeline = make_pipeline(KEYS)
    assert not pipeline.sync().failures
    assert_equal_to_stripe(shop, folder.published)
    assert named(folder) == {shop.account}


@pytest.mark.both_modes
@pytest.mark.parametrize("permission", NEEDED)
def test_none_of_these_permissions_can_be_left_out(
    restricted: Server, make_pipeline: MakePipeline, permission: str
) -> None:
    restricted.permissions.restrict(LIVE["STRIPE_API_KEY"], NEEDED.keys() - {permission})
    try:
        failures = make_pipeline(LIVE, history="3 days").sync().failures
    except StripePipelineError as error:
        failures = {"/v1/events": error}
    assert NEEDED[permission] <= failures.keys()
    for name in NEEDED[permission]:
        assert "permission" in str(failures[name])


# The account of a key


@pytest.fixture
def nameless(restricted: Server) -> Server:
    """The emulator with the restricted keys, whose account no refusal names."""
    restricted.permissions.wording = Wording.NAMES_NO_ACCOUNT
    return restricted


@pytest.mark.both_modes
@pytest.mark.parametrize("wording", varied([Wording.NAMES_PERMISSION, Wording.NAMES_DASHBOARD]))
def test_a_refusal_names_the_account(
    restricted: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder, wording: Wording
) -> None:
    restricted.permissions.wording = wording
    shop.create_payment(livemode=True)
    assert not make_pipeline(LIVE).sync().failures
    assert named(folder) == {shop.account}


@pytest.mark.both_modes
def test_the_settings_name_the_account(
    nameless: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.create_payment(livemode=True)
    assert not make_pipeline(LIVE, account=shop.account).sync().failures
    assert named(folder) == {shop.account}
    with pytest.raises(WarehouseError, match=f"holds account {shop.account}, this key is of acct_1Other"):
        make_pipeline(LIVE, account="acct_1Other").sync()
    nameless.permissions.wording = Wording.NAMES_PERMISSION
    with pytest.raises(SettingsError, match=r"`account: acct_1Other`.*belongs to acct_1Demo"):
        make_pipeline(ANOTHER, account="acct_1Other").sync()


@pytest.mark.both_modes
def test_an_account_stays_unnamed_until_something_names_it(
    nameless: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.create_payment(livemode=True)
    assert not make_pipeline(KEYS).sync().failures
    assert named(folder) == {""}
    shop.create_payment(livemode=True)
    nameless.requests.clear()
    assert not make_pipeline(KEYS).sync().failures
    assert "/v1/account" not in {request.path for request in nameless.requests}
    # The refusal of another request names the account, and the stored rows get the name.
    nameless.permissions.wording = Wording.NAMES_PERMISSION
    nameless.permissions.deny("disputes")
    shop.create_payment(livemode=True)
    report = make_pipeline(LIVE).backfill([today()])
    assert report.failures.keys() == {"disputes"}
    assert ask(folder.published, "SELECT DISTINCT _account FROM raw.charges") == [(shop.account,)]
    assert named(folder) == {shop.account, ""}  # the test key's
    nameless.permissions.allow("disputes")
    nameless.requests.clear()
    assert not make_pipeline(KEYS, account=shop.account).sync().failures
    assert named(folder) == {shop.account}
    # Nothing is read again for that: the cursors and the complete days were kept.
    assert len([request for request in nameless.requests if request.path == "/v1/charges"]) <= 2


@pytest.mark.both_modes
def test_an_unnamed_account_is_requested_once_a_day(
    nameless: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    make_pipeline(LIVE).sync()
    assert named(folder) == {""}
    nameless.permissions.restrict(LIVE["STRIPE_API_KEY"], [*permissions_in_readme(), "accounts_kyc_basic_read"])
    make_pipeline(LIVE).sync()
    assert named(folder) == {""}
    shop.clock.advance(86_500)
    make_pipeline(LIVE).sync()
    assert named(folder) == {shop.account}


@pytest.mark.both_modes
def test_a_new_key_of_the_same_unnamed_account_is_recognized_by_its_objects(
    nameless: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.create_payment(livemode=True)
    make_pipeline(LIVE).sync()
    assert not make_pipeline(ANOTHER).sync().failures
    # A secret key reads the account.
    assert not make_pipeline({"STRIPE_API_KEY": "sk_live_of_the_tests"}).sync().failures
    assert named(folder) == {shop.account}
    assert not make_pipeline({"STRIPE_API_KEY": "rk_live_a_third_one"}).sync().failures
    assert_equal_to_stripe(shop, folder.published)


@pytest.fixture
def other_shop() -> Iterator[Server]:
    """An emulator of another account, with the keys of `nameless`."""
    with Server(Shop(seed=2, account="acct_1OtherShop")) as running:
        for key in (*KEYS.values(), *ANOTHER.values()):
            running.permissions.restrict(key, permissions_in_readme())
        running.permissions.wording = Wording.NAMES_NO_ACCOUNT
        running.shop.create_payment(livemode=True)
        yield running


@pytest.mark.both_modes
@pytest.mark.parametrize("held", varied(["named", "unnamed"]))
@pytest.mark.parametrize("key", ["named", "unnamed"])
def test_accounts_do_not_mix(
    nameless: Server,
    other_shop: Server,
    make_pipeline: MakePipeline,
    folder: DataFolder,
    shop: Shop,
    held: str,
    key: str,
) -> None:
    shop.create_payment(livemode=True)
    make_pipeline(LIVE, **({"account": shop.account} if held == "named" else {})).sync()
    before = everything(folder.published)
    if key == "named":
        other_shop.permissions.wording = Wording.NAMES_PERMISSION
    with pytest.raises(WarehouseError) as refused:
        make_pipeline(ANOTHER, url=other_shop.url).sync()
    assert (shop.account if held == "named" else "an account whose name is not known") in refused.value.what
    assert "name another folder in STRIPE_PIPELINE_DATA" in refused.value.remedy
    assert everything(folder.published) == before
    # The key of the stored account still works.
    assert not make_pipeline(LIVE).sync().failures


@pytest.mark.both_modes
def test_an_empty_unnamed_account_proves_nothing_for_another_key(
    nameless: Server, other_shop: Server, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    """Complete days of one account prove nothing about another's."""
    make_pipeline(LIVE).sync()
    other_shop.shop.create_payment(livemode=True, created=days_ago(other_shop.shop, 10))
    assert not make_pipeline(ANOTHER, url=other_shop.url).sync().failures
    assert_equal_to_stripe(other_shop.shop, folder.published)


@pytest.mark.both_modes
def test_a_key_whose_account_cannot_be_recognized_is_refused(
    nameless: Server, shop: Shop, make_pipeline: MakePipeline, folder: DataFolder
) -> None:
    shop.create_payment(livemode=True)
    make_pipeline(LIVE).sync()
    nameless.permissions.restrict(ANOTHER["STRIPE_API_KEY"], ["Events", "Disputes"])
    with pytest.raises(WarehouseError, match=r"cannot be told.*Set `account`"):
        make_pipeline(ANOTHER).sync()
    assert make_pipeline(ANOTHER, account=shop.account).sync().failures.keys() >= {"charges"}
    assert named(folder) == {shop.account}


@pytest.mark.both_modes
def test_deleted_test_data_has_a_remedy(
    nameless: Server, other_shop: Server, shop: Shop, make_pipeline: MakePipeline
) -> None:
    """`Delete all test data` leaves no object by which a new key could be recognized."""
    shop.create_payment(livemode=True)
    make_pipeline(LIVE).sync()
    with pytest.raises(WarehouseError, match="set `account` in the settings file"):
        make_pipeline(ANOTHER, url=other_shop.url).sync()
    assert not make_pipeline(ANOTHER, url=other_shop.url, account=other_shop.shop.account).sync().failures


def test_check_asks_for_no_permission_to_read_the_account(
    nameless: Server, folder: DataFolder, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stripe_pipeline.cli.check.load_settings", Settings)
    monkeypatch.setenv("STRIPE_API_BASE", nameless.url)
    monkeypatch.setenv("STRIPE_PIPELINE_DATA", str(folder.root))
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    check()
    captured = capfd.readouterr()
    assert ("Live key\n" in captured.out, "Test key\n" in captured.out, captured.err) == (True, True, "")
    assert "accounts_kyc" not in captured.out
    nameless.permissions.wording = Wording.NAMES_PERMISSION
    check()
    assert f"Live key of {nameless.shop.account}" in capfd.readouterr().out
    assert not folder.root.exists()
