"""The parts of a declaration of an emulated type; the declarations are in `types` and `generated_types`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class IncludedList:
    """A list of other objects that belong to an object."""

    type_name: str
    """The type of the listed objects, for example `refunds`."""
    reference: str
    """The field of the listed objects that holds the object's id, for example `charge`; one of `Collection.INDEXED`."""
    url: str
    """The URL of the whole list; `{id}` stands for the object's id."""
    time_filters: tuple[str, ...] = ()
    """As in `EmulatedType`, of the list at this URL."""
    filters: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class EmulatedType:
    """One type that the emulated API lists and retrieves."""

    name: str
    """The name in paths, for example `balance_transactions`."""
    object: str
    """Stripe's `object` value, for example `balance_transaction`."""
    label: str
    """The name of an object in Stripe's messages, for example `balance transaction`."""
    id_parameter: str = "id"
    """The name of the object's id parameter in Stripe's messages."""
    id_prefixes: tuple[str, ...] = ()
    """Id prefixes by which other objects refer to objects of this type, for example `ch` and `py`."""
    filters: tuple[str, ...] = ()
    """Filters of the list besides the time filters; all test for equality, except those of events."""
    choices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Accepted values by filter, where Stripe refuses other values."""
    time_filters: tuple[str, ...] = ("created",)
    """Filters of the list that take a time or a time range: fields that hold a time, or null."""
    path: str = ""
    """The path below `/v1/`, if it is not the name, for example `checkout/sessions`; `-` for objects that are listed
    only with the object to which they belong, and cannot be retrieved."""
    needs: str = ""
    """The filter without which Stripe refuses to list the type."""
    owner: str = ""
    """The type that `needs` names, if it is not the type of the objects of that name."""
    included: Mapping[str, IncludedList] = field(default_factory=dict)
    """Expandable lists, by the field that holds the expanded list."""
    embedded: Mapping[str, IncludedList] = field(default_factory=dict)
    """Lists of which every object holds the first ten entries, by field."""
    below: Mapping[str, IncludedList] = field(default_factory=dict)
    """Lists at an object's path that the object does not hold, by the last part of the path."""
    hidden: Mapping[str, str] = field(default_factory=dict)
    """Fields of the stored objects that the API does not show, with the type that each of these names."""
    update_events: tuple[str, ...] = ()
    """The events that announce changed fields; empty if Stripe announces no such changes for the type."""
    permission: str
    """The prefix of the type's permission names, for example `charge` of `charge_read`."""
    permission_label: str
    """The permission's name in the Dashboard's form for restricted keys, for example `Charges and Refunds`."""
