"""Whether an error is about one object or one span of time, or about every request of its kind.

This module finds out by sending requests of the same kind for other objects. Handling an object that cannot be read
belongs to `reader`.
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

_OTHERS = 3  # objects to try before a request is assumed to fail for all


class Probe:
    """Distinguishes errors about single objects of `endpoint` from errors about all; thread-safe.

    Stripe is asked at most once for each kind of request, and only if no other request of that kind was answered.
    """

    def __init__(self, api: StripeApi, endpoint: str) -> None:
        self._api = api
        self._endpoint = endpoint
        self._works: dict[str, bool] = {}
        self._lock = threading.Lock()

    def answered(self, path: str) -> None:
        """Record that a request for `path` was answered correctly."""
        self._works[self._kind(path)] = True

    def blame(self, error: StripePipelineError, object_id: str) -> StripePipelineError:
        """Returns `error` if it concerns only this object; raises it if it concerns the type, key or all of Stripe."""
        if isinstance(error, BadObject) or self.is_special(error, object_id):
            return error
        raise error

    def is_special(self, error: StripePipelineError, object_id: str | None) -> bool:
        """Whether the refused request works for other objects or, without `object_id`, for a list of other days.

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
        """The kind of requests to `path`: requests for single objects and for their list differ in kind."""
        return f"{self._endpoint}/{{id}}" if path.rpartition("/")[0] == self._endpoint else endpoint_of(path)

    def _ask(self, kind: str, object_id: str | None) -> bool:
        """Whether Stripe answers a request of this kind for another object."""
        sublist = kind.removeprefix(f"{self._endpoint}/{{id}}").strip("/")
        try:
            page = self._api.page(kind if "{id}" not in kind else self._endpoint, limit=1 + _OTHERS)
        except (AuthenticationFailed, Cancelled):
            raise
        except StripePipelineError:
            return False
        others = [obj["id"] for obj in page.objects if is_id(obj.get("id")) and obj["id"] != object_id]
        others = [other for other in others if is_addressable(other)][:_OTHERS]
        if "{id}" not in kind or not others:
            return True
        for other in others:
            below = (sublist,) if sublist else ()
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
