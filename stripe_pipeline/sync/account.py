"""Which account a key belongs to, so that one data folder never holds two accounts.

A restricted key may lack the permission to read the account. Stripe's refusals or the settings then usually name the
account; otherwise it stays unnamed, and the stored objects tell whether a new key belongs to it. Storing keys, and
naming an account that was stored without a name, belong to `warehouse`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from stripe_pipeline.batch import Mode
from stripe_pipeline.errors import BadObject, NotFound, PermissionMissing, RequestRefused, SettingsError
from stripe_pipeline.identity import Identity
from stripe_pipeline.objects import OBJECT_TYPES
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.keys import ApiKey
from stripe_pipeline.stripe_api.paths import object_path
from stripe_pipeline.warehouse.accounts import UNNAMED, other_account
from stripe_pipeline.warehouse.bookkeeping import Example
from stripe_pipeline.warehouse.warehouse import Warehouse


@dataclass(frozen=True)
class StoredKey:
    """What the warehouse stores about a key at the start of a run."""

    account: str | None
    """None for a key that was never used with this warehouse."""
    cursors: dict[str, float]
    """As `State.cursors` returns them."""
    clock: tuple[float, float] | None
    """The bounds of the clock error, as `State.clock` returns them."""


@dataclass(frozen=True)
class Stored:
    """What the warehouse stores about itself and the keys at the start of a run."""

    identity: Identity
    modes: set[bool]
    """The `livemode` values of keys that have written to the warehouse."""
    keys: dict[str, StoredKey]
    """By fingerprint."""

    @classmethod
    def read(cls, warehouse: Warehouse, keys: Iterable[ApiKey]) -> Stored:
        """Reads all of it while the file is open once; raises `WarehouseError`."""
        with warehouse.session(only_reads=True):
            clock, stored = warehouse.state.clock(), warehouse.keys.all()
            of_keys = {}
            for key in keys:
                account, _ = stored.get(key.fingerprint, (None, key.livemode))
                cursors = warehouse.state.cursors(Mode(account or UNNAMED, key.livemode))
                of_keys[key.fingerprint] = StoredKey(account, cursors, clock)
            return cls(warehouse.state.identity(), {livemode for _, livemode in stored.values()}, of_keys)


def mode_of(
    api: StripeApi, key: ApiKey, warehouse: Warehouse, stored: StoredKey, *, configured: str | None
) -> tuple[Mode, dict[str, float]]:
    """Returns the key's account and mode, and the mode's cursors.

    Stripe is asked for the account once; later, the key's fingerprint tells. The client's clock starts with the stored
    bounds. `configured`: the account that the settings name, or None. Raises as `identify` does.
    """
    if stored.clock:
        api.clock.assume(*stored.clock)
    if stored.account is not None and stored.account == (configured or stored.account):
        return Mode(stored.account, key.livemode), stored.cursors
    mode = Mode(identify(api, key, warehouse, configured=configured), key.livemode)
    with warehouse.session():
        warehouse.keys.remember_key(key.fingerprint, mode)
        return mode, warehouse.state.cursors(mode)


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
    with warehouse.session(only_reads=True):
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
