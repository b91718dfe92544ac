"""The permissions of restricted keys, and Stripe's messages for refusals.

`types` declares which permission a type needs. Source: Stripe's pages "API permissions reference", "Permissions
reference" and "Request permissions", and messages quoted by users of Stripe.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from enum import Enum

from stripe_emulator.types import TYPES


class Wording(Enum):
    """The wordings with which Stripe refuses a restricted key."""

    NAMES_PERMISSION = "Having the 'rak_charge_read' permission would allow this request to continue."
    NAMES_NO_ACCOUNT = "The same, without `on account 'acct_…'`."
    NAMES_DASHBOARD = "Enabling \"Charges and Refunds Read\" ('charge_read') permissions on this key would allow …"


_NEEDED: Mapping[str, tuple[str, str]] = {
    # The reference recommends `connected_account`; messages name this permission.
    "account": ("accounts_kyc_basic", "Accounts"),
    "balance": ("balance", "Balance"),
    **{name: (emulated_type.permission, emulated_type.permission_label) for name, emulated_type in TYPES.items()},
}
"""By type: the prefix of its permission names (`charge` of `charge_read`), and the row of the Dashboard's form."""
_IMPLIED: Mapping[str, tuple[str, ...]] = {
    "balance_transaction_source_read": ("application_fee_read", "balance_read", "transfer_read"),
}
"""The further permissions that a permission includes."""


class Permissions:
    """The permissions of each restricted key; may be changed while the emulator runs.

    A key that is not restricted to a list of permissions has every permission not denied to all keys.
    """

    def __init__(self, denied: Iterable[str] = ()) -> None:
        self._denied = set(denied)
        self._granted: dict[str, frozenset[str]] = {}
        self.wording = Wording.NAMES_PERMISSION

    def deny(self, type_name: str) -> None:
        """Deny all restricted keys the permissions for `type_name`, such as `charges`."""
        self._denied.add(type_name)

    def allow(self, type_name: str) -> None:
        """Restore the permissions for `type_name` to all restricted keys."""
        self._denied.discard(type_name)

    def restrict(self, key: str, permissions: Collection[str]) -> None:
        """Restrict `key` to these permissions, named as in the API (`charge_read`) or as in the Dashboard
        (`Charges and Refunds`, to read)."""
        names = {label: f"{name}_read" for name, label in _NEEDED.values()}
        granted = {names.get(permission, permission) for permission in permissions}
        known = {f"{name}_{right}" for name, _ in _NEEDED.values() for right in ("read", "write")}
        if unknown := granted - known:
            raise ValueError(f"these are not permissions: {', '.join(sorted(unknown))}")
        implied = {other for permission in granted for other in _IMPLIED.get(permission, ())}
        self._granted[key] = frozenset(granted | implied)

    def allows(self, type_name: str, key: str, right: str) -> bool:
        """Whether a restricted key may `read` or `write` this type; write access includes read access."""
        if type_name in self._denied:
            return False
        granted = self._granted.get(key)
        name = _NEEDED[type_name][0]
        return granted is None or f"{name}_{right}" in granted or f"{name}_write" in granted

    def refusal(self, type_name: str, right: str, *, key: str, account: str) -> tuple[str, str | None]:
        """Returns Stripe's message and error code for a key without this right; `key` is already `masked`."""
        name, label = _NEEDED[type_name]
        where = "" if self.wording is Wording.NAMES_NO_ACCOUNT else f" on account '{account}'"
        lacks = f"does not have the required permissions for this endpoint{where}."
        if self.wording is Wording.NAMES_DASHBOARD:
            prefix, _, end = key.rpartition("*")
            return (
                f"Permission denied. The provided key '{prefix.rstrip('*')}...{end}' {lacks} Enabling"
                f" \"{label} {right.capitalize()}\" ('{name}_{right}') permissions on this key would allow this"
                f" request to continue. You can edit permissions at https://dashboard.stripe.com/b/{account}"
                "?destination=%2Fapikeys%2Fmk_1Emulated%2Fedit",
                "more_permissions_required",
            )
        return (
            f"The provided key '{key}' {lacks} Having the 'rak_{name}_{right}' permission would allow this request to"
            " continue.",
            None,
        )
