"""All views, in an order in which each view follows the views that it uses.

To add one that combines tables, write its module beside `payments` and name it in `COMBINED`: the file, its comments,
the assets and docs/tables.md follow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from stripe_pipeline.objects import ObjectType
from stripe_pipeline.settings.model import Settings
from stripe_pipeline.views.one_type import view_of
from stripe_pipeline.views.payments import payments
from stripe_pipeline.views.view import MODES, View

COMBINED: tuple[Callable[[Settings], View], ...] = (payments,)
"""Views that combine several tables."""


def views(settings: Settings, types: Iterable[ObjectType] | None = None) -> tuple[View, ...]:
    """The views of a file that has the tables of these types, by default of those that the settings require."""
    return (
        *(view_of(object_type, settings) for object_type in (settings.required if types is None else types)),
        *(combined(settings) for combined in COMBINED),
    )


def selects(settings: Settings, types: Iterable[ObjectType]) -> dict[str, str]:
    """The SELECT of every view by its qualified name, for example `live.charges`, in the order of `views`."""
    every = views(settings, types)
    return {f"{schema}.{view.name}": view.select(schema) for schema in MODES for view in every}
