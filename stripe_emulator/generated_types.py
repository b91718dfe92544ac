"""The emulated types that follow from the generated declarations of object types: lists, retrieval, permissions.

Objects of these types are added with `shop.put`; the shop has no actions for them and no history.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from stripe_emulator.declaration import EmulatedType, IncludedList
from stripe_pipeline.objects import OBJECT_TYPES, ObjectType


def generated_types(declared: Collection[str]) -> Iterator[EmulatedType]:
    """Yields a type for each generated declaration, but those with a name among `declared`."""
    for object_type in OBJECT_TYPES.values():
        if object_type.generated and object_type.name not in declared:
            yield _emulated(object_type)


def _emulated(object_type: ObjectType) -> EmulatedType:
    name, child_list = object_type.name, object_type.child_list
    path, parameter = object_type.endpoint or "", ""
    if child_list:
        path, parameter = child_list.path, child_list.parameter
    hidden = {column.name for column in object_type.columns if column.added} & {f"{object_type.parent_key}"}
    return EmulatedType(
        name=name,
        object=object_type.object,
        label=object_type.object,
        filters=(parameter,) if parameter else (),
        needs=parameter,
        owner=object_type.parent or "" if parameter else "",
        time_filters=("created",) if object_type.windowed and object_type.endpoint else (),
        path="-" if "{id}" in path else path.removeprefix("/v1/"),
        hidden=dict.fromkeys(hidden, f"{object_type.parent}"),
        update_events=tuple(event for event in object_type.events if event.endswith(".updated")),
        permission=object_type.object.replace(".", "_"),
        permission_label=name.replace("_", " ").title(),
    )


LISTS_OF_GENERATED: Mapping[tuple[str, str], IncludedList] = {
    (f"{object_type.parent}", object_type.child_list.path.rpartition("/")[2]): IncludedList(
        type_name=object_type.name, reference=f"{object_type.parent_key}", url=object_type.child_list.path
    )
    for object_type in OBJECT_TYPES.values()
    if object_type.generated and object_type.child_list and "{id}" in object_type.child_list.path
}
"""The lists of generated types at the paths of objects, as `types.LISTS`."""
