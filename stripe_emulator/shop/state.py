"""The shop's data in each mode, and read access.

This module provides the basis of every action: storage, ids, the clock, the lock. Changing objects belongs to
`changes`, events to `events`.
"""

from __future__ import annotations

import functools
import string
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypedDict, TypeVar, cast

import orjson

from stripe_emulator.clock import Clock
from stripe_emulator.store import Collection, Json, Window
from stripe_emulator.types import TYPES, IncludedList

EMBEDDED = 10
"""How many lines, payments, … Stripe embeds in an object."""
_INTERNAL = frozenset({"inline"})
"""Fields of stored objects that the API never shows: whether a price was made for one use."""
_DISCOUNTED = {"invoice_discounts": "invoices", "subscription_discounts": "subscriptions"}
_ALPHABET = string.ascii_letters + string.digits
_CHARACTERS = bytes(ord(_ALPHABET[byte % len(_ALPHABET)]) for byte in range(256))
"""The character of ids and secrets for each random byte."""

Method = TypeVar("Method", bound=Callable[..., Any])


class When(TypedDict, total=False):
    """Keyword arguments of most actions; actions that also take object fields list these arguments explicitly."""

    livemode: bool | None
    """The mode of the object; by default the mode that contains its id."""
    created: int | None
    """The time of the action in Unix seconds; by default now."""
    announce: bool
    """Whether events announce the action; by default true."""


@dataclass(frozen=True)
class Moment:
    """The time and mode of an action, and whether events announce the action."""

    at: int
    livemode: bool
    announce: bool = True

    @property
    def when(self) -> When:
        """Returns the moment as arguments of another action."""
        return {"livemode": self.livemode, "created": self.at, "announce": self.announce}


@dataclass
class Side:
    """All data of the shop in one mode."""

    objects: dict[str, Collection] = field(default_factory=lambda: {name: Collection() for name in TYPES})
    lines: dict[str, dict[str, Json]] = field(default_factory=dict)
    """Lines in list order, by invoice."""
    deleted_customers: set[str] = field(default_factory=set)
    pending: list[tuple[int, str]] = field(default_factory=list)
    """Heap of balance transactions that are not yet available."""
    capturing: list[tuple[int, str, bool]] = field(default_factory=list)
    """Heap of charges without a balance transaction yet: its time, the charge, whether to announce the change."""
    paid_out: dict[str, str] = field(default_factory=dict)
    """The payout that contains each balance transaction."""
    invoice_intents: dict[str, str] = field(default_factory=dict)
    """The payment intent that collects an invoice."""
    discounts: dict[str, Json] = field(default_factory=dict)
    """Discounts by id; they have no endpoint."""
    prorations: dict[str, list[Json]] = field(default_factory=dict)
    """Lines of the next invoice, by subscription."""
    webhook_secrets: dict[str, str] = field(default_factory=dict)
    """Secrets, by webhook endpoint."""


def locked(method: Method) -> Method:
    """Make a method of the shop thread-safe."""

    @functools.wraps(method)
    def with_lock(self: State, *args: Any, **kwargs: Any) -> Any:
        with self.lock:
            return method(self, *args, **kwargs)

    return cast(Method, with_lock)


def random_text(random: Random, length: int) -> str:
    """Returns random letters and digits, for ids and secrets."""
    return random.randbytes(length).translate(_CHARACTERS).decode()


def deep_copy(obj: Json) -> Json:
    """Returns a deep copy."""
    copied: Json = orjson.loads(orjson.dumps(obj))
    return copied


class State:
    """Read access to the objects of one account."""

    def __init__(self, *, seed: int = 1, clock: Clock | None = None, account: str = "acct_1DemoShop0000000") -> None:
        self.seed = seed
        self.clock = clock or Clock()
        self.account = account
        self.lock = threading.RLock()
        self.event_delay: float = 0.0
        """Default delay in seconds between the `created` of a new event and its visibility."""
        self.async_capture: float = 0.0
        """Share of successful payments that are captured asynchronously: the charge gets its balance transaction up to
        a minute later, with the charge's `created`, and `charge.updated` announces the change
        (docs/stripe.md#asynchronous-capture)."""
        self.numbers_by_customer = True
        """Whether invoices are numbered for each customer, as Stripe does by default, or for the account."""
        self.event_listeners: list[Callable[[str, bool], object]] = []
        """Called immediately with the id and mode of every event of an action, while the shop is locked."""
        self._random = Random(seed)
        self._event_random = Random(f"{seed} events")
        self._trade_random = Random(f"{seed} trade")
        self._capture_random = Random(f"{seed} capture")
        self._sides = {True: Side(), False: Side()}
        self._numbers = 0
        self._seeding = False

    @locked
    def objects(self, type_name: str, livemode: bool) -> dict[Any, Json]:
        """Returns the current objects by id, lines and fees by the key of their row; without deleted customers."""
        if type_name == "invoice_lines":
            return {
                (invoice, line_id): deep_copy(line)
                for invoice, lines in self._sides[livemode].lines.items()
                for line_id, line in lines.items()
            }
        if type_name == "fee_details":
            return {
                (transaction, position): fee
                for transaction, obj in self.objects("balance_transactions", livemode).items()
                for position, fee in enumerate(obj["fee_details"])
            }
        if type_name in _DISCOUNTED:
            return self._discounts_of(type_name, livemode)
        if type_name == "payout_balance_transactions":
            payouts = self.collection("payouts", livemode).objects
            return {
                (payout, transaction): {}
                for transaction, payout in self._sides[livemode].paid_out.items()
                if payouts[payout]["reconciliation_status"] == "completed"
            }
        shown = {
            object_id: self._shown(type_name, object_id, livemode) for object_id in self.collection(type_name, livemode)
        }
        if not (hidden := TYPES[type_name].hidden):
            return shown
        [owner] = hidden
        return {(self._stored(type_name, key, livemode)[owner], key): obj for key, obj in shown.items()}

    def _discounts_of(self, type_name: str, livemode: bool) -> dict[Any, Json]:
        """Returns the discounts that objects of a type and their parts name."""
        side, owners = self._sides[livemode], _DISCOUNTED[type_name]
        named: dict[Any, Json] = {}
        for owner, obj in side.objects[owners].objects.items():
            parts = side.lines.get(owner, {}).values() if owners == "invoices" else ()
            for part in (obj, *parts):
                named |= {(owner, discount): side.discounts[discount] for discount in part.get("discounts") or ()}
        return named

    @locked
    def discount(self, discount_id: str, livemode: bool) -> Json:
        """Returns a discount; raises KeyError for an unknown id."""
        return self._sides[livemode].discounts[discount_id]

    @locked
    def collection(self, type_name: str, livemode: bool) -> Collection:
        """Returns the current objects of a type, without embedded lines; read-only."""
        self._catch_up(type_name, livemode)
        return self._sides[livemode].objects[type_name]

    @locked
    def render(self, type_name: str, object_id: str, livemode: bool) -> bytes:
        """Returns the API's JSON of an object; raises KeyError if the object does not exist."""
        collection = self.collection(type_name, livemode)
        rendered = collection.rendered.get(object_id)
        if rendered is None:
            obj = collection.objects[object_id]
            if type_name == "invoices" and "lines" in obj:
                obj = obj | {"lines": self._embedded_lines(obj, livemode)}
            for name, listed in TYPES[type_name].embedded.items():
                obj = obj | {name: self._first_of(listed, object_id, livemode)}
            if hidden := (TYPES[type_name].hidden.keys() | _INTERNAL) & obj.keys():
                obj = {name: value for name, value in obj.items() if name not in hidden}
            rendered = collection.rendered[object_id] = orjson.dumps(obj)
        return rendered

    @locked
    def lines(self, invoice_id: str, livemode: bool) -> list[Json]:
        """Returns all lines of an invoice in list order; raises KeyError for an unknown invoice."""
        side = self._sides[livemode]
        if invoice_id not in side.objects["invoices"]:
            raise KeyError(invoice_id)
        return list(side.lines.get(invoice_id, {}).values())

    def is_deleted_customer(self, object_id: str, livemode: bool) -> bool:
        """Whether this customer has been deleted."""
        return object_id in self._sides[livemode].deleted_customers

    def payout_of(self, transaction_id: str, livemode: bool) -> str | None:
        """Returns the payout that contains a balance transaction."""
        return self._sides[livemode].paid_out.get(transaction_id)

    def _catch_up(self, type_name: str, livemode: bool) -> None:
        """Apply due changes before objects of a type are read."""

    def _stored(self, type_name: str, object_id: str, livemode: bool) -> Json:
        """Returns an object without embedded lines; raises KeyError for an unknown id."""
        return self._sides[livemode].objects[type_name].objects[object_id]

    def _customer(self, customer_id: str | None, livemode: bool) -> Json | None:
        return self._sides[livemode].objects["customers"].objects.get(customer_id or "")

    def _shown(self, type_name: str, object_id: str, livemode: bool) -> Json:
        """Returns an object as the API shows it."""
        shown: Json = orjson.loads(self.render(type_name, object_id, livemode))
        return shown

    def _first_of(self, listed: IncludedList, object_id: str, livemode: bool) -> Json:
        """Returns the first entries of the list of objects that belong to an object."""
        collection = self._sides[livemode].objects[listed.type_name]
        among = list(collection.with_value(listed.reference, object_id))
        ids, more = collection.page(Window(limit=EMBEDDED), among=among)
        data = [self._shown(listed.type_name, entry, livemode) for entry in ids]
        url = listed.url.format(id=object_id)
        return {"object": "list", "data": data, "has_more": more, "url": url}

    def _embedded_lines(self, invoice: Json, livemode: bool) -> Json:
        lines = list(self._sides[livemode].lines.get(invoice["id"], {}).values())
        embedded: Json = invoice["lines"] | {"data": lines[:EMBEDDED], "has_more": len(lines) > EMBEDDED}
        if "total_count" in embedded:
            embedded["total_count"] = len(lines)
        return embedded

    def _moment(self, *, livemode: bool = False, created: int | None = None, announce: bool = True) -> Moment:
        return Moment(self._at(created), livemode, announce)

    def _new_moment(self, when: When) -> Moment:
        """Returns the moment at which an object is created."""
        return Moment(self._at(when.get("created")), bool(when.get("livemode")), when.get("announce", True))

    def _moment_of(self, type_name: str, object_id: str, when: When) -> Moment:
        """Returns the moment of an action, in the mode that contains the object; raises KeyError if none does."""
        mode = self._mode(type_name, object_id, when.get("livemode"))
        return Moment(self._at(when.get("created")), mode, when.get("announce", True))

    def _mode(self, type_name: str, object_id: str, livemode: bool | None) -> bool:
        for mode in (False, True) if livemode is None else (livemode,):
            if object_id in self._sides[mode].objects[type_name]:
                return mode
        raise KeyError(f"the shop has no {object_id} among its {type_name}")

    def _at(self, created: int | None) -> int:
        return int(self.clock.now()) if created is None else created

    def _id(self, prefix: str) -> str:
        return f"{prefix}_1{random_text(self._random, 23)}"
