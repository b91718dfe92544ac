"""The paths of single objects, and which ids a path can hold.

This module handles ids in URLs. Which ids are valid at all belongs to `rows`.
"""

from __future__ import annotations

from urllib.parse import quote

from stripe_pipeline.errors import BadObject

NAMELESS = "(no id) "
"""The prefix of the substitute id of an object that Stripe listed without an id; the day follows."""


def is_addressable(object_id: str) -> bool:
    """Whether an object can be read by this id.

    Servers resolve `.` and `..` to another path, even percent-encoded; ids that begin with `NAMELESS` stand for objects
    without an id. Such objects are read with the day on which they were made.
    """
    return object_id not in (".", "..") and not object_id.startswith(NAMELESS)


def object_path(endpoint: str, object_id: str, *below: str) -> str:
    """The path of one object, for example `/v1/invoices/in_1/lines` with `below` = `lines`.

    A shop may choose its customers' ids, such as `a/b` or `x+y@example.com`: the id is percent-encoded. Raises
    `BadObject` for an id that is not addressable.
    """
    if not is_addressable(object_id):
        raise BadObject(
            f"The object {object_id!r} of {endpoint} cannot be read by its id, which stands for another path in a URL",
            "Lists still contain the object: backfill the day on which it was created",
        )
    return "/".join([endpoint, quote(object_id, safe=""), *below])
