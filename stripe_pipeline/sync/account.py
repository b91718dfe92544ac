"""Which account a key belongs to, so that one data folder never holds two accounts.

A restricted key may lack the permission to read the account. Stripe's refusals or the settings then usually name the
account; otherwise it stays unnamed, and the stored objects tell whether a new key belongs to it. Storing keys, and
naming an account that was stored without a name, belong to `warehouse`.
"""

from __future__ import annotations

from collections.abc import Iterable

from stripe_pipeline.batch import Mode
from stripe_pipeline.errors import BadObject, NotFound, PermissionMissing, RequestRefused, SettingsError
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.paths import object_path
from stripe_pipeline.warehouse.accounts import UNNAMED, other_account
from stripe_pipeline.warehouse.bookkeeping import Example
from stripe_pipeline.warehouse.warehouse import Warehouse


def mode_of(
    api: StripeApi, key: ApiKey, warehouse: Warehouse, *, configured: str | None
) -> tuple[Mode, dict[str, float]]:
    """Returns the key's account and mode, and the mode's cursors as `State.cursors` does.

    Stripe is asked for the account once; later, the key's fingerprint tells. The client's clock starts with the bounds
    that the warehouse stores. `configured`: the account that the settings name, or None. Raises as `identify` does.
    """
    with warehouse.session():
        account = warehouse.keys.account_of(key.fingerprint)
        bounds = warehouse.state.clock()
        mode = Mode(account or UNNAMED, key.livemode)
        cursors = warehouse.state.cursors(mode)
    if bounds:
        api.clock.assume(*bounds)
    if account is None or (configured and account != configured):
        mode = Mode(identify(api, key, warehouse, configured=configured), key.livemode)
        with warehouse.session():
            warehouse.keys.remember_key(key.fingerprint, mode)
            cursors = warehouse.state.cursors(mode)
    return mode, cursors


def remember_name(api: StripeApi, key: ApiKey, warehouse: Warehouse, mode: Mode) -> None:
    """Name the account if Stripe did so during the run; raises `WarehouseError` if another is stored."""
    if api.named_account not in (None, mode.account):
        warehouse.keys.remember_key(key.fingerprint, Mode(api.named_account, key.livemode))


def identify(api: StripeApi, key: ApiKey, warehouse: Warehouse, *, configured: str | None) -> str:
    """The account that `key` belongs to, or `UNNAMED`; `configured` is the account that the settings name.

    Raises `WarehouseError` if the warehouse holds another account (by name, or because this key cannot see any of
    several stored objects) or if this cannot be determined, `SettingsError` if Stripe and the settings name different
    accounts, and the errors of `StripeApi.get`.
    """
    reported = api.account() or UNNAMED
    with warehouse.session():
        known = warehouse.keys.account_of(key.fingerprint)
        _compare(reported, configured, warehouse)
        held = warehouse.keys.accounts_of(livemode=key.livemode)
    account = reported or known or UNNAMED
    unproven = held and (not account or UNNAMED in held)
    if known is None and unproven and not configured:
        examples = warehouse.keys.examples(livemode=key.livemode)
        seen, missing = _look_for(api, examples)
        account = account or api.named_account or UNNAMED  # a refusal may have named the account
        _compare(account, configured, warehouse)
        if examples and not seen:
            raise other_account(warehouse.folder, examples[0].account, account, missing=missing)
        account = account or next((example.account for example in seen), UNNAMED)
    return account or configured or UNNAMED


def _compare(reported: str, configured: str | None, warehouse: Warehouse) -> None:
    """Raise if Stripe, the settings and the warehouse name different accounts."""
    if reported and configured and reported != configured:
        raise SettingsError(
            f"The settings file says `account: {configured}`, but Stripe says that this key belongs to {reported}",
            "Use a key of the account that the settings name, or correct `account` there",
        )
    named = reported or configured
    if named and (others := warehouse.keys.accounts() - {named, UNNAMED}):
        raise other_account(warehouse.folder, min(others), named)


def _look_for(api: StripeApi, examples: Iterable[Example]) -> tuple[list[Example], int]:
    """The first of these objects that the key can see, if any; and how many Stripe reports as missing."""
    missing = 0
    for example in examples:
        try:
            api.get(object_path(f"{OBJECT_TYPES[example.table].endpoint}", example.id))
        except NotFound as error:
            missing += error.code == "resource_missing"
        except (BadObject, PermissionMissing, RequestRefused):
            continue  # not about the object
        else:
            return [example], missing
    return [], missing
