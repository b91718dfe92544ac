"""The shop as one API key sees it: the key's mode, its permissions, the objects visible to it.

`permissions` says which permission a type needs, `keys` identifies the caller.
"""

from __future__ import annotations

import orjson

from stripe_emulator import templates
from stripe_emulator.errors import StripeError, no_such
from stripe_emulator.keys import Caller, masked
from stripe_emulator.permissions import Permissions
from stripe_emulator.shop import Shop
from stripe_emulator.store import Collection, Json
from stripe_emulator.types import TYPES


class Access:
    """The access rights of one request."""

    def __init__(self, shop: Shop, permissions: Permissions, caller: Caller) -> None:
        self.shop = shop
        self.caller = caller
        self.livemode = caller.livemode
        self._permissions = permissions

    def permit(self, type_name: str, right: str = "read") -> None:
        """Raise Stripe's refusal if the key lacks a `right`, `read` or `write`."""
        if self.caller.restricted and not self._permissions.allows(type_name, self.caller.key, right):
            message, code = self._permissions.refusal(
                type_name, right, key=masked(self.caller.key), account=self.shop.account
            )
            raise StripeError(403, message, **({"code": code} if code else {}))

    def collection(self, type_name: str) -> Collection:
        """Returns all objects of a type, read-only."""
        return self.shop.collection(type_name, self.livemode)

    def holds(self, type_name: str, object_id: str) -> bool:
        """Whether an object exists and is already readable."""
        if object_id not in self.collection(type_name):
            return False
        return type_name != "events" or self.shop.event_is_visible(object_id, self.livemode)

    def is_deleted(self, type_name: str, object_id: str) -> bool:
        """Whether this is a deleted object for which Stripe still returns a stub."""
        return type_name == "customers" and self.shop.is_deleted_customer(object_id, self.livemode)

    def render(self, type_name: str, object_id: str) -> bytes:
        """Returns an existing object as JSON."""
        return self.shop.render(type_name, object_id, self.livemode)

    def read(self, type_name: str, object_id: str) -> Json:
        """Returns an existing object, or the stub of a deleted object."""
        if self.is_deleted(type_name, object_id):
            return templates.deleted_customer(object_id)
        shown: Json = orjson.loads(self.render(type_name, object_id))
        return shown

    def missing(self, type_name: str, object_id: str, *, param: str | None = None, status: int = 404) -> StripeError:
        """Returns the error for a missing object; its message says if the object exists in the other mode.

        `param` is the parameter that names the object (default: the id in the path).
        """
        emulated_type = TYPES[type_name]
        hint = ""
        if object_id in self.shop.collection(type_name, not self.livemode):
            other, mine = ("test", "live") if self.livemode else ("live", "test")
            hint = f"; a similar object exists in {other} mode, but a {mine} mode key was used to make this request."
        param = param or emulated_type.id_parameter
        return no_such(emulated_type.label, object_id, param=param, status=status, hint=hint)
