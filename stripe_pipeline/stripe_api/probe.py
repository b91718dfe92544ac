"""Whether an error is about one object or one span of time, or about every request of its kind.

Here belongs how that is found out: by sending requests of the same kind for other objects. What becomes of an object
that cannot be read belongs to `reader`.
"""

from __future__ import annotations

import threading

from stripe_pipeline.errors import (
    AuthenticationFailed,
    BadObject,
    Cancelled,
    NotFound,
    RequestRefused,
    StripePipelineError,
    Unavailable,
)
from stripe_pipeline.rows import is_id
from stripe_pipeline.stripe_api.client import StripeApi
from stripe_pipeline.stripe_api.paths import is_addressable, object_path
from stripe_pipeline.stripe_api.rate_limits import endpoint_of
from stripe_pipeline.stripe_api.refusals import RESOURCE_MISSING

_OTHERS = 3  # objects that are tried before a request is taken to fail for all


class Probe:
    """Tells errors about single objects of `endpoint` from errors about all of them; thread-safe.

    Stripe is asked at most once for each kind of request, and only if no other request of that kind was answered.
    """

    def __init__(self, api: StripeApi, endpoint: str) -> None:
        self._api = api
        self._endpoint = endpoint
        self._works: dict[str, bool] = {}
        self._lock = threading.Lock()

    def answered(self, path: str) -> None:
        """Note that a request for `path` was answered as it should be."""
        self._works[self._kind(path)] = True

    def blame(self, error: StripePipelineError, object_id: str) -> StripePipelineError:
        """`error`, if it is about this object alone; raises it if it is about the type, the key or all of Stripe."""
        if isinstance(error, BadObject) or self.is_special(error, object_id):
            return error
        raise error

    def is_special(self, error: StripePipelineError, object_id: str | None) -> bool:
        """Whether what was refused works for other objects, or for a list of other days where there is no `object_id`.

        Raises `AuthenticationFailed` and `Cancelled`.
        """
        if not isinstance(error, (NotFound, RequestRefused, Unavailable)) or (
            isinstance(error, Unavailable) and error.status in (None, 429)
        ):
            return False
        kind = self._kind(error.path)
        with self._lock:
            if kind not in self._works:
                self._works[kind] = self._ask(kind, object_id)
            return self._works[kind]

    def _kind(self, path: str) -> str:
        """What requests to `path` are alike to: those for single objects are not like those for their list."""
        return f"{self._endpoint}/{{id}}" if path.rpartition("/")[0] == self._endpoint else endpoint_of(path)

    def _ask(self, kind: str, object_id: str | None) -> bool:
        """Whether Stripe answers a request of this kind for another object."""
        one_below = kind.removeprefix(f"{self._endpoint}/{{id}}").strip("/")
        try:
            page = self._api.page(kind if "{id}" not in kind else self._endpoint, limit=1 + _OTHERS)
        except (AuthenticationFailed, Cancelled):
            raise
        except StripePipelineError:
            return False
        others = [it["id"] for it in page.objects if is_id(it.get("id")) and it["id"] != object_id]
        others = [it for it in others if is_addressable(it)][:_OTHERS]
        if "{id}" not in kind or not others:
            return True
        for other in others:
            below = (one_below,) if one_below else ()
            try:
                self._api.get(object_path(self._endpoint, other, *below))
            except (AuthenticationFailed, Cancelled):
                raise
            except NotFound as error:
                if error.code == RESOURCE_MISSING:
                    return True
            except StripePipelineError:
                continue
            else:
                return True
        return False
