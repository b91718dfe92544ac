"""The declarations that `make objects` derives from Stripe's OpenAPI document, of types that no other module declares.

`generated.json` holds them; `docs/objects.py` writes it. Such a type has no references, no flat columns and no tests of
its own, and is off by default.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stripe_pipeline.objects.declaration import Announcement, ChildList, ObjectType, columns

_FILE = Path(__file__).parent / "generated.json"
_LISTS = ("events", "secrets", "personal", "about_person", "key")


def _object_type(name: str, declared: dict[str, Any]) -> ObjectType:
    """The object type that an entry of the file declares."""
    stripe_object, parent_key = declared["object"], declared.get("parent_key")
    of_every_row = ("id", parent_key, "created", "livemode") if parent_key else ("id", "created", "livemode")
    fields: Mapping[str, str] = declared.pop("columns")
    added: Mapping[str, str] = declared.pop("added", {})
    description = f"Stripe's {stripe_object} objects."
    if parent_key:
        description = f"Stripe's {stripe_object} objects. Read with a request for each of {declared['parent']}."
        path, parameter = declared.pop("path"), declared.pop("parameter", "")
        declared["child_list"] = ChildList(path=path, parameter=parameter)
    if values := declared.pop("values", None):
        declared["values"] = {field: tuple(named.split()) for field, named in values.items()}
    if announcements := declared.pop("announcements", None):
        declared["announcements"] = tuple(
            Announcement(object=of["object"], fields=tuple(of["fields"]), events=tuple(of["events"]))
            for of in announcements
        )
    for field in _LISTS:
        if field in declared:
            declared[field] = tuple(declared[field])
    return ObjectType(
        name=name,
        description=description,
        columns=columns(leading=of_every_row, added=added, **fields),
        optional=True,
        generated=True,
        **declared,
    )


_TEXT = _FILE.read_bytes()

GENERATED = tuple(_object_type(name, declared) for name, declared in json.loads(_TEXT).items())
"""The generated object types, in alphabetical order."""

GENERATED_DIGEST = hashlib.sha256(_TEXT).hexdigest()
"""Equal for equal declarations of all generated types."""
