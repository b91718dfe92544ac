"""Objects with made-up values, in the shapes that `declarations` reads."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from stripe_emulator.types import BY_OBJECT
from stripe_pipeline.days import DAY
from stripe_pipeline.objects import DEFAULT_TYPES, OBJECT_TYPES
from tests.samples.declarations import declared_fields, is_declared

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """How one object of each type differs from the others of its version."""

    name: str
    number: int
    nulls: float
    """The share of nullable fields that are null, and of occasional fields that are missing."""
    items: int
    """How many items a list has."""
    expanded: bool = False
    """Whether references hold the object instead of its id."""
    odd: bool = False
    """Whether values are ones that programs often mishandle."""


VARIANTS = (
    Variant(name="full", number=0, nulls=0, items=2),
    Variant(name="empty", number=1, nulls=1, items=0),
    Variant(name="expanded", number=2, nulls=0, items=1, expanded=True),
    Variant(name="odd", number=3, nulls=0.4, items=3, odd=True),
)

_OWN_ID = "Kundin Nr. 7/ä+"
"""The beginning of an id that a shop chose; Stripe lets it choose those of customers."""
_CURRENCIES = ("usd", "jpy", "eur", "kwd")
_DECIMALS = ("12.5", "0", "1200", "0.000000000001")
_RATES = (1.083, 0.0, 19.5, 1)
"""Stripe sends a rate that is whole without a decimal point."""
_ODD_TEXTS = ("", "Zoë – 東京 🎟️", 'a "b" \\ c\n\td', "nUlL", "0", " two  spaces ", "x" * 500, "e\u0301 \u200b \u00a0")
_METADATA: tuple[dict[str, str], ...] = (
    {"order": "1001"},
    {},
    {"a b": "1", "a_b": "2", "A_B": "3"},
    {"🎉": "ß" * 500, "client_secret": "of the shop's own", "empty": "", "a.b[0]": "null"},
)
_SCALARS = frozenset(
    (
        *("amount", "client_secret", "count", "country", "currency", "decimal", "email", "flag", "livemode"),
        *("metadata", "nothing", "rate", "text", "time", "url"),
    )
)


LISTED = frozenset(
    object_type.object
    for object_type in (*DEFAULT_TYPES.values(), OBJECT_TYPES["payouts"])
    if object_type.endpoint is not None
)
"""The kinds of objects that are built by themselves."""


def made_objects(version: str) -> list[Json]:
    """An object of each variant of the default types that have a list, and of payouts, with everything inside it; the
    same at every call."""
    return [Builder(version, variant, kind).build() for variant in VARIANTS for kind in sorted(LISTED)]


class Builder:
    """Builds one object of a type, with everything inside it."""

    def __init__(self, version: str, variant: Variant, kind: str) -> None:
        self._version = version
        self._variant = variant
        self._kind = kind
        self._random = Random(f"{version} {variant.name} {kind}")
        self._numbers = Counter[str]()
        self._enclosing: list[tuple[str, str]] = []
        """Kinds and ids of the objects that are being built, outermost first."""
        self._start = int(datetime.fromisoformat(version[:10]).replace(tzinfo=UTC).timestamp())

    def build(self) -> Json:
        """The object."""
        return self._object(self._kind)

    def _object(self, kind: str) -> Json:
        fields = declared_fields(kind, self._version)
        shapes = dict(fields.always)
        if not self._enclosing or kind not in LISTED:
            # Stripe leaves lists out of a nested object unless they are requested.
            shapes |= {name: shape for name, shape in fields.sometimes.items() if not self._leaves_out()}
        object_id = self._new_id(kind, repeated=shapes.get("id") == "repeated id")
        self._enclosing.append((kind, object_id))
        obj = {
            name: object_id if name == "id" and shape != "text" else self._value(name, shape)
            for name, shape in shapes.items()
        }
        self._enclosing.pop()
        return obj

    def _value(self, name: str, shape: Any) -> Any:
        """A value for a field in a shape, in the notation of `types.yaml`."""
        if isinstance(shape, dict):
            return {inner: self._value(inner, inner_shape) for inner, inner_shape in shape.items()}
        if isinstance(shape, list):
            return [self._value(name, shape[0]) for _ in range(self._variant.items)]
        if shape.startswith("maybe "):
            return None if self._leaves_out() else self._value(name, shape.removeprefix("maybe "))
        if shape.startswith("["):
            return self._value(name, [shape[1:-1]])
        if shape in _SCALARS:
            return self._scalar(name, shape)
        if is_declared(shape):
            return self._object(shape)
        match shape.split():
            case ["always", word]:
                return word
            case ["one", "of", *words]:
                return "undocumented" if self._variant.odd else words[self._variant.number % len(words)]
            case ["list", "of", kind]:
                return self._list_of(name, kind)
            case ["id", "of", *kinds]:
                return self._reference(kinds[self._variant.number % len(kinds)])
        raise ValueError(f"{name} has an unknown shape {shape!r}")

    def _scalar(self, name: str, kind: str) -> Any:
        variant, random = self._variant, self._random
        match kind:
            case "amount":
                odd = (2**31 + random.randrange(1000), 2**53 + 1, -random.randrange(1, 5000), 0)
                return random.choice(odd) if variant.odd else random.randrange(90_000)
            case "client_secret":
                return f"{self._enclosing[-1][1]}_secret_{random.randrange(10**9)}"
            case "count":
                return random.randrange(2**40) if variant.odd else random.randrange(100)
            case "country":
                return random.choice(("DE", "JP", "KW", "US"))
            case "currency":
                return _CURRENCIES[variant.number]
            case "decimal":
                return _DECIMALS[variant.number]
            case "email":
                return f"{name}+{variant.number}@{'bücher' if variant.odd else 'shop'}.example"
            case "flag":
                return random.random() < 0.5
            case "livemode":
                return variant.odd
            case "metadata":
                return dict(_METADATA[variant.number])
            case "rate":
                return _RATES[variant.number]
            case "text":
                return random.choice(_ODD_TEXTS) if variant.odd else f"{name} {random.randrange(10**6)}"
            case "time":
                return self._created() if name == "created" else self._start + random.randrange(-400 * DAY, 400 * DAY)
            case "url":
                return (
                    f"https://shop.example/{name}?payment_intent_client_secret=pi_{random.randrange(10**9)}_secret_9x"
                )
        return None

    def _created(self) -> int:
        """The second in which all objects of a variant are made, so that none is younger than one that names it. The
        variants are made on two days, so that few days need to be listed."""
        return self._start + self._variant.number * 2 * DAY // len(VARIANTS)

    def _list_of(self, name: str, kind: str) -> Json:
        data = [self._object(kind) for _ in range(self._variant.items)]
        outer, outer_id = self._enclosing[-1]
        listed = {"object": "list", "data": data, "has_more": False, "url": f"/v1/{outer}s/{outer_id}/{name}"}
        return listed if self._variant.number % 2 else listed | {"total_count": len(data)}

    def _reference(self, kind: str) -> Any:
        """The id of an enclosing object of this kind, or of the listed one; in expanded variants, an object."""
        for enclosing, object_id in reversed(self._enclosing[:-1]):
            if enclosing == kind:
                return object_id
        if not self._variant.expanded or len(self._enclosing) > 1:
            return self._id(kind, kind, 0)
        if is_declared(kind):
            return self._object(kind)
        return {"id": self._new_id(kind), "object": kind, "metadata": self._scalar("metadata", "metadata")}

    def _new_id(self, kind: str, *, repeated: bool = False) -> str:
        number = self._numbers[kind]
        self._numbers[kind] += 1
        return self._id("every invoice" if repeated else self._kind, kind, number)

    def _id(self, within: str, kind: str, number: int) -> str:
        """An id. A listed object has the number 0 of its own kind."""
        variant = self._variant
        where = within if within == "every invoice" else f"{within} {variant.name}"
        token = hashlib.sha256(f"{self._version} {where} {kind} {number}".encode()).hexdigest()
        if kind == "customer" and variant.odd:
            return f"{_OWN_ID}{token[:24]}"
        prefixes = (kind in BY_OBJECT and BY_OBJECT[kind].id_prefixes) or (kind,)
        return f"{prefixes[variant.number % len(prefixes)]}_1{token[:23]}"

    def _leaves_out(self) -> bool:
        return self._random.random() < self._variant.nulls
