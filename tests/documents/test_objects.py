"""The generated declarations are those of Stripe's OpenAPI document."""

from __future__ import annotations

import json

from docs import objects
from stripe_pipeline.objects import OBJECT_TYPES


def test_the_generated_declarations_are_up_to_date() -> None:
    assert objects.TARGET.read_text(encoding="utf-8") == objects.text(), "run `make objects`"


def test_every_generated_type_is_declared_and_off_by_default() -> None:
    names = json.loads(objects.TARGET.read_bytes()).keys()
    assert names == {name for name, object_type in OBJECT_TYPES.items() if object_type.generated}
    assert [name for name in names if not OBJECT_TYPES[name].optional] == []
